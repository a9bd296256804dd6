//! The runtime of the graph; it knows no stage by name.
