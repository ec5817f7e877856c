"""Networks as plain data, without torch: layers, channel groups, what corresponds, sizes, trunks."""
