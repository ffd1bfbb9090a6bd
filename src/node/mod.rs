//! A node as people run it: files, configuration, admin API, command line.

pub mod api;
mod data_dir;
mod files;

pub use data_dir::{CaSource, DataDir, DataDirError, Trust};
pub use files::FileError;
