//! A node as people run it: files, configuration, admin API, command line.
//!
//! ```text
//!   cli, demo ──▶ client ──unix socket──▶ admin ──▶ agent ──▶ mesh
//!      │                                             │  ╲
//!      └──▶ Node::start ──▶ daemon, mesh, admin      │   forwards ──▶ router
//!              │                                     api
//!           data_dir ──▶ files
//! ```
//!
//! Everything below works without this module: it only decides where keys are, what the settings are, and what an
//! operator gets to see.

mod admin;
mod agent;
pub mod api;
pub mod cli;
mod client;
mod config;
mod data_dir;
mod demo;
mod files;
mod forwards;
mod pipe;
mod run;

pub use admin::AdminError;
pub use client::{Client, ClientError, EventStream};
pub use config::{DEFAULT_PORT, NodeConfig, StateStore};
pub use data_dir::{CaSource, DataDir, DataDirError, Trust};
pub use files::FileError;
pub use run::{Node, StartError};
