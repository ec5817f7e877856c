"""Forms of export, one a module. Torch is imported where a file is written."""
