//! `connect`: a tunnel of the mesh on standard input and output.

use std::fs::OpenOptions;
use std::io;

use super::failure::{Exit, Failure};
use super::forward::Route;
use crate::node::Client;
use crate::node::pipe;

pub(super) async fn connect(client: &Client, route: &Route) -> Result<(), Failure> {
    let socket = client.upgrade(&format!("/v1/connect?{}", route.query())).await?;
    let joined = pipe::join(socket, tokio::io::stdin(), tokio::io::stdout(), close_stdout).await;
    joined.map_err(|error| Failure::new(Exit::Unexpected, error.to_string()))
}

/// Whoever reads our output sees its end, while our input may go on.
fn close_stdout() -> io::Result<()> {
    let nowhere = OpenOptions::new().write(true).open("/dev/null")?;
    Ok(rustix::stdio::dup2_stdout(nowhere)?)
}
