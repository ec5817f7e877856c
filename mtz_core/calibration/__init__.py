"""What calibration images say of a layer: activations on their way, input rows, moments, how much outputs matter."""
