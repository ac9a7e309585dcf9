//! OPC-UA.
