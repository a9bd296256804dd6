//! Configuration files to typed values; every fault is reported at once, with file and line.
