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
mod census;
pub mod cli;
mod client;
mod config;
mod control;
mod data_dir;
mod demo;
mod doctor;
mod files;
mod forwards;
mod health;
mod import;
mod listing;
mod metrics;
mod nearest;
mod notify;
mod offline;
mod parse;
mod ping;
mod pipe;
mod pulse;
mod run;
mod settings;
mod trust;

pub use admin::{AdminError, HttpError};
pub use client::{Agent, Client, ClientError, EventStream, PieceStream, Token};
pub use config::{CompatConfig, DEFAULT_PORT, NodeConfig, RegistryTrust, StateStore};
pub use control::{Controls, LogControl, ReloadRequests, Reloaded};
pub use data_dir::{CaSource, DataDir, DataDirError, NodeFiles, Trust};
pub use files::FileError;
pub use run::{Node, StartError};
