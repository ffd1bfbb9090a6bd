//! Whole daemons: real QUIC on loopback and the command line.
