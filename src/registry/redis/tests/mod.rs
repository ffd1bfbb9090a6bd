//! Against real servers (feature `integration-redis`): single, by TLS with a password, and a cluster of three masters.
//!
//! Where there is no `redis-server` they say so and pass. Servers run on free ports of the loopback, in directories of
//! their own, and end with the tests.

mod servers;

use std::time::Instant;

use self::servers::{Cluster, Server, Tls};
use super::*;
use crate::id::{NodeId, TunnelId};
use crate::registry::conformance::{found, registration, tunnel_suite};

/// What happens here happens within seconds; this is for machines that are asleep.
const PATIENCE: Duration = Duration::from_secs(60);

fn same(record: &Registration) -> Registration {
    record.clone()
}

fn web() -> TunnelName {
    "web".parse().unwrap()
}

async fn connect(config: RedisConfig) -> RedisTunnelRegistry {
    RedisTunnelRegistry::connect(&config).await.unwrap()
}

/// Asks again until the answer is as it should be in the end.
async fn until<T: PartialEq + fmt::Debug>(expected: T, mut ask: impl AsyncFnMut() -> Option<T>) {
    let begin = Instant::now();
    loop {
        let answer = ask().await;
        if answer.as_ref() == Some(&expected) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{answer:?} is not {expected:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// The tunnel that a lookup finds; nothing at all while the server is away.
async fn ask(registry: &RedisTunnelRegistry) -> Option<Option<u64>> {
    registry.lookup(&web()).await.ok().map(|record| record.map(|record| record.tunnel.0))
}

tunnel_suite!(a_single_server_as_any_registry, async {
    let server = Server::start()?;
    Some((connect(server.config()).await, same, server))
});

tunnel_suite!(a_server_by_tls_as_any_registry, async {
    let (tls, password) = (Tls::new(), "secret");
    let server = Server::start_tls(&tls, password)?;
    Some((connect(server.tls_config(&tls, password)).await, same, (server, tls)))
});

tunnel_suite!(a_cluster_of_three_masters_as_any_registry, async {
    let cluster = Cluster::shared().await?;
    Some((connect(cluster.config()).await, same, cluster))
});

/// FEATURES S8. The names of a cluster are on all of its masters.
#[tokio::test]
async fn a_cluster_shares_names_among_its_masters() {
    let Some(cluster) = Cluster::shared().await else { return };
    let registry = connect(cluster.config()).await;
    for at in 0..60 {
        registry.register(registration(&format!("t{at}"), at)).await.unwrap();
    }
    for master in cluster.masters() {
        let keys: u64 = master.ask(::redis::cmd("DBSIZE")).await;
        assert!(keys > 0, "a master has no key");
    }
    registry.inner.renew().await.unwrap();
    for at in 0..60 {
        assert_eq!(found(&registry, same, &format!("t{at}").parse().unwrap()).await, Some(at));
    }
    registry.close().await.unwrap();
    assert_eq!(found(&registry, same, &"t1".parse().unwrap()).await, None);
}

/// FEATURES S8. Whoever is not the authority's is not talked to, nor is one with another password.
#[tokio::test]
async fn a_server_that_the_authority_does_not_know_is_refused_and_so_is_a_wrong_password() {
    let (tls, other) = (Tls::new(), Tls::new());
    let Some(server) = Server::start_tls(&tls, "secret") else { return };
    connect(server.tls_config(&tls, "secret")).await;
    for config in [server.tls_config(&other, "secret"), server.tls_config(&tls, "guessed")] {
        let refused = RedisTunnelRegistry::connect(&config).await.unwrap_err();
        assert!(matches!(refused, RedisConfigError::Connect(_)), "{refused:?}");
    }
}

/// FEATURES S8. What a crashed process has registered is gone after its lease, and not before.
#[tokio::test]
async fn a_lease_is_renewed_while_its_holder_lives_and_ends_after_it() {
    let Some(server) = Server::start() else { return };
    let config = RedisConfig { lease: Duration::from_secs(1), ..server.config() };
    let (holder, other) = (connect(config.clone()).await, connect(config).await);
    let identifier = holder.register(registration("web", 1)).await.unwrap();
    let end = async || -> u64 {
        let mut command = ::redis::cmd("HGET");
        command.arg(holder.inner.key(&web())).arg(identifier.field());
        let field: Option<Vec<u8>> = server.ask(command).await;
        let field = String::from_utf8_lossy(&field.expect("still there")).into_owned();
        field.split(' ').next().unwrap().parse().unwrap()
    };
    let first = end().await;
    // Two renewals later the first lease is over, and the registration is there.
    until(true, async || Some(end().await > first + 600)).await;
    assert_eq!(found(&other, same, &web()).await, Some(1));
    drop(holder);
    until(None, async || ask(&other).await).await;
    // The key goes with its last lease.
    until(0_u64, async || Some(server.ask(::redis::cmd("DBSIZE")).await)).await;
}

/// FEATURES S8. The order of naming survives with the registrations, in whatever order they come back.
#[tokio::test]
async fn an_emptied_server_gets_everything_again_in_the_order_of_naming() {
    let Some(server) = Server::start() else { return };
    let config = RedisConfig { lease: Duration::from_secs(60), ..server.config() };
    let (one, two) = (connect(config.clone()).await, connect(config).await);
    one.register(registration("web", 1)).await.unwrap();
    let last = two.register(registration("web", 2)).await.unwrap();
    for [first, second] in [[&one, &two], [&two, &one]] {
        let _emptied: String = server.ask(::redis::cmd("FLUSHALL")).await;
        assert_eq!(found(&one, same, &web()).await, None);
        first.inner.renew().await.unwrap();
        second.inner.renew().await.unwrap();
        assert_eq!(found(&one, same, &web()).await, Some(2));
    }
    two.deregister_identifier(last).await.unwrap().unwrap();
    assert_eq!(found(&one, same, &web()).await, Some(1));
}

/// FEATURES S8. A server that was killed and came back empty is filled again without anybody's doing.
#[tokio::test]
async fn a_restarted_server_is_found_again_and_filled_again() {
    let Some(mut server) = Server::start() else { return };
    let config =
        RedisConfig { lease: Duration::from_secs(2), timeout: Duration::from_secs(2), ..server.config() };
    let registry = connect(config).await;
    let before = registry.register(registration("web", 1)).await.unwrap();
    server.kill();
    registry.lookup(&web()).await.unwrap_err();
    registry.register(registration("web", 2)).await.unwrap_err();
    server.restart();
    until(Some(1), async || ask(&registry).await).await;
    assert!(registry.deregister_identifier(before).await.unwrap().is_some());
    assert_eq!(found(&registry, same, &web()).await, None);
}

/// FEATURES S8. What is given up while the server is away is not renewed, and ends with its lease.
#[tokio::test]
async fn what_could_not_be_taken_back_is_not_renewed() {
    let Some(mut server) = Server::start() else { return };
    let config = RedisConfig { timeout: Duration::from_secs(2), ..server.config() };
    let registry = connect(config).await;
    let identifier = registry.register(registration("web", 1)).await.unwrap();
    server.kill();
    registry.deregister_identifier(identifier.clone()).await.unwrap_err();
    server.restart();
    until(Some(()), async || Some(registry.inner.renew().await.ok())).await;
    assert_eq!(found(&registry, same, &web()).await, None);
    assert!(registry.deregister_identifier(identifier).await.unwrap().is_none());
}

/// FEATURES S20. A registry knows what others hold, and alters only its own.
#[tokio::test]
async fn a_registry_finds_what_others_hold_and_takes_back_only_its_own() {
    let Some(server) = Server::start() else { return };
    let holder = Some(NodeId::from_bytes([7; 32]));
    let (one, two) =
        (connect(RedisConfig { holder, ..server.config() }).await, connect(server.config()).await);
    let identifier = one.register(registration("web", 1)).await.unwrap();
    assert_eq!(two.lookup(&web()).await.unwrap().unwrap().holder, holder);
    assert!(two.deregister_identifier(identifier).await.unwrap().is_none());
    assert_eq!(found(&two, same, &web()).await, Some(1));
    let elsewhere = connect(RedisConfig { prefix: "other:".into(), ..server.config() }).await;
    assert_eq!(found(&elsewhere, same, &web()).await, None);
}

/// FEATURES S8. Values of somebody who writes under the same prefix are judged like a hostile peer's.
#[tokio::test]
async fn poisoned_values_are_never_used_and_hide_nothing() {
    let Some(server) = Server::start() else { return };
    let registry = connect(server.config()).await;
    let key = registry.inner.key(&web());
    let poison = async |field: &str, value: Vec<u8>| {
        let mut command = ::redis::cmd("HSET");
        command.arg(&key).arg(field).arg(value);
        let _added: u64 = server.ask(command).await;
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let (soon, far) = ((now.as_millis() + 60_000).to_string(), (now.as_millis() + 100_000_000).to_string());
    let claim =
        |ends: &str, order: String, record: &[u8]| [format!("{ends} {order} ").as_bytes(), record].concat();
    let evil = record::encode(&registration("web", 9));
    // Later named than whatever is named here.
    let later = |seconds: u128| (now.as_micros() + seconds * 1_000_000).to_string();
    let values = [
        b"".to_vec(),
        b"garbage".to_vec(),
        vec![0xff; 300],
        claim(&soon, later(100), b"no record"),
        claim(&soon, later(200), &record::encode(&registration("db", 9))),
        claim(&soon, later(300), &evil[..evil.len() - 1]),
        // Too long a lease, too great an order, a negative one, too long a record: no claims at all.
        claim(&far, later(1), &evil),
        claim(&soon, later(100_000), &evil),
        claim(&soon, "9007199254740992".into(), &evil),
        claim(&soon, "-1".into(), &evil),
        claim(&soon, later(400), &[&evil[..], &[0; MAX_RECORD]].concat()),
    ];
    let poison_all = async || {
        for (at, value) in values.iter().enumerate() {
            poison(&format!("p{at}"), value.clone()).await;
        }
    };
    poison_all().await;
    let poisoned = registry.lookup(&web()).await.unwrap_err();
    assert!(matches!(poisoned, RedisRegistryError::Poisoned), "{poisoned}");
    // One that is registered among them comes behind what looks later named; it is found all the same.
    let identifier = registry.register(registration("web", 1)).await.unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    poison("later", claim(&soon, later(80_000), b"no record")).await;
    poison_all().await;
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    // So is the holder's own after its next renewal, if somebody has written over it.
    poison(&identifier.field(), b"garbage".to_vec()).await;
    registry.inner.renew().await.unwrap();
    assert_eq!(found(&registry, same, &web()).await, Some(1));
    poison(&identifier.field(), claim(&soon, "1".into(), b"garbage")).await;
    assert!(registry.deregister_identifier(identifier).await.unwrap().is_none());
    let mut command = ::redis::cmd("SET");
    command.arg(&key).arg("a string");
    let _set: String = server.ask(command).await;
    assert!(matches!(registry.lookup(&web()).await, Err(RedisRegistryError::Server(_))));
    assert!(matches!(registry.register(registration("web", 2)).await, Err(RedisRegistryError::Server(_))));
}

/// FEATURES S8. More than 64 KiB are neither written nor read.
#[tokio::test]
async fn a_registration_that_is_too_long_is_refused_here() {
    let Some(server) = Server::start() else { return };
    let registry = connect(server.config()).await;
    let of_size = |len| {
        let attributes = [("a".to_owned(), vec![7; len])].into();
        Registration { attributes: Arc::new(attributes), ..registration("web", 1) }
    };
    let refused = registry.register(of_size(MAX_RECORD)).await.unwrap_err();
    assert!(matches!(refused, RedisRegistryError::TooLong { .. }), "{refused}");
    assert_eq!(found(&registry, same, &web()).await, None);
    let largest = MAX_RECORD - record::encode(&of_size(0)).len() - 4;
    registry.register(of_size(largest)).await.unwrap();
    assert_eq!(registry.lookup(&web()).await.unwrap().unwrap().attributes["a"].len(), largest);
}

/// FEATURES S8, S14. Closing takes everything back at once.
#[tokio::test]
async fn closing_takes_everything_back() {
    let Some(server) = Server::start() else { return };
    let (registry, other) = (connect(server.config()).await, connect(server.config()).await);
    for at in 0..5 {
        registry.register(registration("web", at)).await.unwrap();
    }
    other.register(registration("web", 9)).await.unwrap();
    registry.close().await.unwrap();
    assert_eq!(other.lookup(&web()).await.unwrap().map(|found| found.tunnel), Some(TunnelId(9)));
    let left: u64 = server
        .ask({
            let mut command = ::redis::cmd("HLEN");
            command.arg(registry.inner.key(&web()));
            command
        })
        .await;
    assert_eq!(left, 1);
}
