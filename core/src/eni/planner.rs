//! The NIC planner: turns a node's demand into cloud calls, one node at a time.
