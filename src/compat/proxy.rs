//! `/proxy-tcp/…`: connections to TCP targets, of which only those that were declared are made.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::id::TunnelName;
use crate::service::{
    Declared, HostPort, Kind, OfferedStream, ProxyError, Refusal, RouteAddress, RouteTarget, Service, Target,
    TargetService, TargetTable,
};
use crate::tunnel::ArcTunnel;

/// What an address of version 0 asks to be connected to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TcpAddress {
    host: String,
    port: u16,
}

impl TcpAddress {
    /// The address that asks for a host by name, or by an address that passes for one.
    pub fn new(host: impl Into<String>, port: u16) -> Self {
        Self { host: host.into(), port }
    }

    /// Reads `/proxy-tcp/tcp/PORT`, `…/ip4/A.B.C.D/tcp/PORT`, `…/ip6/ADDRESS/tcp/PORT` or `…/dns/HOST/tcp/PORT`, also with
    /// `dns4` and `dns6`; `None` if it is something else.
    pub fn parse(address: &RouteAddress) -> Option<Self> {
        let rest: Vec<&str> = address.strip_prefix(&["proxy-tcp"])?.iter().map(String::as_str).collect();
        let (host, port) = match rest[..] {
            ["tcp", port] => (Ipv4Addr::LOCALHOST.to_string(), port),
            ["ip4", host, "tcp", port] => (host.parse::<Ipv4Addr>().ok()?.to_string(), port),
            ["ip6", host, "tcp", port] => (host.parse::<Ipv6Addr>().ok()?.to_string(), port),
            ["dns" | "dns4" | "dns6", host, "tcp", port] => (host.to_owned(), port),
            _ => return None,
        };
        Some(Self { host, port: decimal(port)? })
    }

    /// The address that a server opens for a visitor.
    pub fn to_address(&self) -> Option<RouteAddress> {
        let port = self.port.to_string();
        RouteAddress::from_segments(["proxy-tcp", "dns", &self.host, "tcp", &port]).ok()
    }

    /// Host and port.
    pub(super) fn parts(&self) -> (String, u16) {
        (self.host.clone(), self.port)
    }

    /// The same as a target, if a host can be called so.
    pub fn to_target(&self) -> Option<Target> {
        let text = if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        };
        text.parse::<HostPort>().ok().map(Target::Tcp)
    }
}

impl fmt::Display for TcpAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// A port without signs and leading zeros.
pub(super) fn decimal(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

/// Connects to one target, and to no other whoever asks: the client's end of a demand proxy.
#[derive(Debug, Clone)]
pub struct ProxyTcp {
    only: TcpAddress,
    name: TunnelName,
    service: TargetService,
}

impl ProxyTcp {
    /// Connects to `only`, if a host can be called so.
    pub fn new(only: TcpAddress) -> Option<Self> {
        let name: TunnelName = "target".parse().ok()?;
        let targets = TargetTable::new();
        targets.declare(name.clone(), Declared { target: only.to_target()?, id: None });
        Some(Self { only, name, service: TargetService::new(targets) })
    }
}

impl Service for ProxyTcp {
    type Error = ProxyError;

    fn accepts(&self, address: &RouteAddress, _: &ArcTunnel) -> bool {
        TcpAddress::parse(address).is_some()
    }

    async fn handle(
        &self,
        address: RouteAddress,
        stream: OfferedStream,
        tunnel: ArcTunnel,
    ) -> Result<(), ProxyError> {
        if TcpAddress::parse(&address).as_ref() != Some(&self.only) {
            tracing::warn!(address = ?address.to_string(), "the server asked for a target that is not ours");
            return Ok(stream.refuse(Refusal::Refused).await?);
        }
        let target = RouteTarget::Target(self.name.clone(), Kind::Stream);
        self.service.handle(target.address(), stream, tunnel).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<String> {
        TcpAddress::parse(&text.parse().unwrap()).map(|address| address.to_string())
    }

    #[test]
    fn every_form_of_an_address_is_read_and_no_other() {
        for (text, expected) in [
            ("/proxy-tcp/tcp/80", "127.0.0.1:80"),
            ("/proxy-tcp/ip4/10.0.0.1/tcp/0", "10.0.0.1:0"),
            ("/proxy-tcp/ip6/::1/tcp/65535", "::1:65535"),
            ("/proxy-tcp/dns/localhost/tcp/80", "localhost:80"),
            ("/proxy-tcp/dns4/a.b/tcp/80", "a.b:80"),
            ("/proxy-tcp/dns6/a.b/tcp/80", "a.b:80"),
        ] {
            assert_eq!(parse(text).as_deref(), Some(expected), "{text}");
        }
        for text in [
            "",
            "/proxy-tcp",
            "/proxy-tcp/tcp",
            "/proxy-tcp/tcp/65536",
            "/proxy-tcp/tcp/+80",
            "/proxy-tcp/tcp/080",
            "/proxy-tcp/udp/80",
            "/proxy-tcp/ip4/localhost/tcp/80",
            "/proxy-tcp/ip6/[::1]/tcp/80",
            "/proxy-tcp/dns/localhost/tcp/80/",
            "/proxy-udp/tcp/80",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
