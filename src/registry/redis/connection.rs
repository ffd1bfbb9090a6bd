//! The connection to a server or to a cluster.

use std::path::Path;

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    Client, ClientTlsConfig, Cmd, ConnectionInfo, IntoConnectionInfo, RedisError, TlsCertificates, Value,
};

use super::{RedisConfig, RedisConfigError, RedisTopology};

/// Reconnects by itself; what is asked while it is away fails.
#[derive(Clone)]
pub(super) enum Connection {
    Server(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Connection {
    /// Connects and sees that somebody answers.
    pub(super) async fn open(config: &RedisConfig) -> Result<Self, RedisConfigError> {
        let tls = certificates(config)?;
        let password = match &config.password_file {
            Some(file) => {
                let text = String::from_utf8_lossy(&read(file)?).into_owned();
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            None => None,
        };
        let connection = match config.topology {
            RedisTopology::Server => {
                let info = info(&config.urls[0], password.as_deref())?;
                let client = match tls {
                    Some(tls) => Client::build_with_tls(info, tls)?,
                    None => Client::open(info)?,
                };
                // One attempt at a time: whoever waits is better told than kept waiting, and asks again.
                let settings = ConnectionManagerConfig::new()
                    .set_number_of_retries(0)
                    .set_connection_timeout(Some(config.timeout))
                    .set_response_timeout(Some(config.timeout));
                Self::Server(ConnectionManager::new_with_config(client, settings).await?)
            }
            RedisTopology::Cluster => {
                let mut infos = Vec::new();
                for url in &config.urls {
                    infos.push(info(url, password.as_deref())?);
                }
                let mut builder = ClusterClientBuilder::new(infos)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout)
                    .retries(3);
                if let Some(tls) = tls {
                    builder = builder.certs(tls);
                }
                Self::Cluster(builder.build()?.get_async_connection().await?)
            }
        };
        connection.query(&redis::cmd("PING")).await?;
        Ok(connection)
    }

    pub(super) async fn query(&self, command: &Cmd) -> Result<Value, RedisError> {
        match self.clone() {
            Self::Server(mut server) => server.req_packed_command(command).await,
            Self::Cluster(mut cluster) => cluster.req_packed_command(command).await,
        }
    }
}

fn info(url: &str, password: Option<&str>) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info()?;
    let Some(password) = password else { return Ok(info) };
    let settings = info.redis_settings().clone().set_password(password);
    Ok(info.set_redis_settings(settings))
}

fn certificates(config: &RedisConfig) -> Result<Option<TlsCertificates>, RedisConfigError> {
    let root_cert = config.tls.ca.as_deref().map(read).transpose()?;
    let client_tls = match &config.tls.client {
        Some((cert, key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
        None => None,
    };
    let any = root_cert.is_some() || client_tls.is_some();
    Ok(any.then_some(TlsCertificates { client_tls, root_cert }))
}

fn read(path: &Path) -> Result<Vec<u8>, RedisConfigError> {
    std::fs::read(path).map_err(|error| RedisConfigError::File { path: path.to_owned(), error })
}
