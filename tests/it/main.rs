//! Whole daemons: real QUIC on loopback and the command line.
//!
//! Few tests, because slow. Everything listens on free ports of loopback and waits for conditions, never for time.
#![expect(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does: by a panic that says where"
)]

mod acl;
mod admin;
mod browser;
mod compat;
mod config;
mod copy;
mod crash;
mod dashboard;
mod demo;
mod documents;
mod drain;
mod everyday;
mod hardening;
mod health;
mod http;
mod looking;
mod mesh;
mod metrics;
mod program;
mod promises;
mod route;
mod service;
mod signed;
mod trust;
mod usage;
