//! How tunnels live and end.
