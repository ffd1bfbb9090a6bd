//! Precedence, places, suggestions.

use super::table::SETTINGS;
use super::*;

/// The settings of one file, and of nothing else.
fn load(text: &str) -> Result<Settings, Vec<String>> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("s.toml");
    std::fs::write(&file, text).unwrap();
    let sources = Sources { named: vec![file.clone()], flags: data_dir(), ..Sources::default() };
    let strip = |fault: &Fault| fault.to_string().replace(&file.display().to_string(), "s.toml");
    sources.load().map_err(|faults| faults.iter().map(strip).collect())
}

fn data_dir() -> BTreeMap<&'static str, Vec<String>> {
    [("node.data_dir", vec!["/nowhere".to_owned()])].into()
}

fn faults(text: &str) -> Vec<String> {
    load(text).unwrap_err()
}

/// FEATURES P7.
#[test]
fn flags_win_over_the_environment_over_files_over_defaults() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = directory.path().join(name);
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        std::fs::write(&file, text).unwrap();
        file
    };
    let first = write("snomesh.toml", "[node]\nname = \"file\"\n[quic]\nlisten = \"127.0.0.1:1\"\n");
    write("conf.d/20.toml", "[quic]\nlisten = \"127.0.0.1:3\"\n[[tunnel]]\nname = \"b\"\ntarget = \"2\"\n");
    write("conf.d/10.toml", "[quic]\nlisten = \"127.0.0.1:2\"\n[[tunnel]]\nname = \"a\"\ntarget = \"1\"\n");
    write("conf.d/note.txt", "not read");
    let mut sources = Sources { default: Some(first), flags: data_dir(), ..Sources::default() };
    let settings = sources.load().unwrap();
    assert_eq!((settings.name.as_str(), settings.listen.port()), ("file", 3));
    assert_eq!(settings.tunnels.len(), 2);
    assert_eq!(settings.chosen["quic.listen"].origin.to_string().rsplit('/').next().unwrap(), "20.toml:2:10");
    assert_eq!(settings.chosen["log.format"].origin, Origin::Default);

    sources.env = [("SNOMESH_NAME", "env".into()), ("SNOMESH_JOIN", "a:1, b:2".into())].into();
    let settings = sources.load().unwrap();
    assert_eq!(settings.name, "env");
    assert_eq!(settings.seeds.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:1", "b:2"]);
    sources.flags.insert("node.name", vec!["flag".into()]);
    let settings = sources.load().unwrap();
    assert_eq!(
        (settings.name.as_str(), settings.chosen["node.name"].origin.to_string().as_str()),
        ("flag", "flag --name")
    );
}

/// FEATURES P7: what is wrong is said all at once, with its place and what was probably meant.
#[test]
fn what_is_unknown_is_said_with_its_place_and_a_suggestion() {
    let found = faults(
        "[node]\nnmae = \"x\"\n[qiuc]\nlisten = \"1\"\n[log]\ncolour = true\n[[tunnel]]\nnam = \"x\"\n",
    );
    assert_eq!(
        found,
        [
            "s.toml:6:1: unknown key \"colour\" in [log] (known are: level, format)",
            "s.toml:2:1: unknown key \"nmae\" in [node] (did you mean \"name\"?)",
            "s.toml:3:2: unknown key \"qiuc\" (did you mean \"quic\"?)",
            "s.toml:8:1: unknown key \"nam\" in [[tunnel]] (did you mean \"name\"?)",
            "s.toml:7:1: name is missing in [[tunnel]]",
            "s.toml:7:1: target is missing in [[tunnel]]",
        ]
    );
}

#[test]
fn what_is_not_legal_is_said_with_its_place() {
    let check = |health: &str| format!("[[tunnel]]\nname = \"x\"\ntarget = \"1\"\nhealth = {{ {health} }}");
    for (text, fault) in [
        ("[node\n", "s.toml:1:6: not TOML: "),
        ("node = 1", "s.toml:1:1: node is a table (write [node])"),
        ("[node]\nname = 1", "s.toml:2:8: node.name is a text in quotes"),
        ("[quic]\nlisten = \"x\"", "s.toml:2:10: quic.listen = \"x\": an address to listen on is IP:PORT"),
        ("[mesh]\nseeds = \"a:1\"", "s.toml:2:9: mesh.seeds is a list of texts"),
        ("[mesh]\nseeds = [\"a\"]", "s.toml:2:9: mesh.seeds: \"a\": "),
        ("[mesh]\nevict_after = \"1m\"", "s.toml:2:15: mesh.evict_after = \"1m\": at least 10m, or off"),
        ("[mesh]\nevict_after = \"never\"", "s.toml:2:15: mesh.evict_after = \"never\": a duration is"),
        (
            "[limits]\nmax_tunnels = 0",
            "s.toml:2:15: limits.max_tunnels = \"0\": is a whole number above zero",
        ),
        ("[limits]\nmax_tunnels = -1", "s.toml:2:15: limits.max_tunnels"),
        ("[limits]\ndrain_timeout = 5", "s.toml:2:17: limits.drain_timeout is a duration in quotes"),
        ("[limits]\ndrain_timeout = \"5d\"", "s.toml:2:17: limits.drain_timeout = \"5d\": "),
        ("[log]\nformat = \"jsno\"", "did you mean \"json\"?"),
        ("[log]\nlevel = \"a=b=c\"", "s.toml:2:9: log.level"),
        ("[log]\nlevel = \"loud\"", "\"loud\" is no level"),
        ("[admin]\nhttp = \"0.0.0.0:1\"", "the admin API listens on loopback only"),
        ("[identity]\nca_key = \"k\"", "needs identity.ca beside it"),
        ("[tunnel]\nname = \"x\"", "s.toml:1:2: tunnel is a list of tables (write [[tunnel]])"),
        ("[[tunnel]]\nname = \"X\"\ntarget = \"1\"", "s.toml:2:8: name = \"X\": "),
        ("[[tunnel]]\nname = \"x\"\ntarget = \"y\"", "s.toml:3:10: target = \"y\": "),
        (
            "[[tunnel]]\nname = \"x\"\ntarget = \"1\"\nattrs = { a = 1 }",
            "s.toml:4:15: an attribute is a text",
        ),
        (
            "[[tunnel]]\nname = \"x\"\ntarget = \"1\"\n[[tunnel]]\nname = \"x\"\ntarget = \"2\"",
            "offered twice",
        ),
        (
            &check("kind = \"htpp\", path = \"/\""),
            "s.toml:4:10: the kind of a health check is tcp, http or cmd",
        ),
        (&check("kind = \"http\""), "s.toml:4:10: a health check of this kind needs path"),
        (&check("path = \"/\""), "a health check has a kind"),
        (&check("kind = \"tcp\", path = \"/\""), "a health check of kind tcp has no path"),
        (&check("kind = \"http\", path = \"/\", command = \"/x\""), "of kind http has no command"),
        (&check("kind = \"tcp\", intervall = \"1s\""), "did you mean \"interval\"?"),
        (
            &check("kind = \"tcp\", interval = \"1ms\""),
            "the interval of a health check is from 100ms to 86400s: 1ms",
        ),
        (&check("kind = \"tcp\", rise = 0"), "the rise of a health check is from 1 to 100"),
        (&check("kind = \"tcp\", rise = -1"), "rise is not a number that a health check has"),
        (&check("kind = \"tcp\", rise = \"1\""), "rise is a whole number"),
        ("[[tunnel]]\nname = \"x\"\ntarget = \"1\"\nhealth = \"tcp\"", "s.toml:4:10: health is a table"),
        ("[[tunnel]]\nname = \"x\"\ntarget = \"1\"\nattrs = { \"snomesh.x\" = \"\" }", "are the mesh's own"),
        ("[[bind]]\nlisten = \"0\"\ntunnel = \"x\"", "a port of its own"),
        ("[[bind]]\nlisten = \"1\"\ntunnel = \"x\"\n[[bind]]\nlisten = \"1\"\ntunnel = \"y\"", "bound twice"),
    ] {
        let found = faults(text);
        assert!(found.iter().any(|found| found.contains(fault)), "{text:?}: {found:?}");
    }
    let column = faults("[node]\n\"ä\" = 1\nname = \"\"")[0].clone();
    assert!(column.starts_with("s.toml:2:1: unknown key"), "{column}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let sources = Sources { named: vec!["/nowhere/x.toml".into()], flags: data_dir(), ..Sources::default() };
    let faults = sources.load().unwrap_err();
    assert!(faults[0].to_string().starts_with("/nowhere/x.toml: cannot be read"), "{faults:?}");
    let sources =
        Sources { default: Some("/nowhere/x.toml".into()), flags: data_dir(), ..Sources::default() };
    assert!(sources.load().unwrap().files.is_empty());
}

#[test]
fn a_variable_that_is_not_legal_is_named() {
    let env = [("SNOMESH_LISTEN", "nowhere".into())].into();
    let faults = Sources { env, flags: data_dir(), ..Sources::default() }.load().unwrap_err();
    assert!(faults[0].to_string().starts_with("SNOMESH_LISTEN: quic.listen = \"nowhere\""), "{faults:?}");
}

/// What is shown can be read again and says the same.
#[test]
fn what_is_shown_is_a_file_that_says_the_same() {
    let text = "[node]\nname = \"e \\\"17\\\"\"\n[mesh]\nseeds = [\"a:1\", \"b:2\"]\n[admin]\nhttp = \"127.0.0.1:7668\"\n\
        [limits]\nmax_streams = 7\n[[tunnel]]\nname = \"web\"\ntarget = \"127.0.0.1:80\"\nattrs = { env = \"prod\" }\n\
        health = { kind = \"http\", path = \"/x\", interval = \"1m\", fall = 5 }\n\
        [[bind]]\nlisten = \"127.0.0.1:81\"\ntunnel = \"web\"\n\
        [[bind]]\nlisten = \"udp:127.0.0.1:53\"\ntunnel = \"service=dns,!canary\"\npolicy = \"nearest\"\n";
    let settings = load(text).unwrap();
    let again = load(&settings.to_toml()).unwrap();
    assert_eq!((&settings.name, settings.http), (&again.name, again.http));
    assert_eq!((&settings.seeds, settings.max_streams), (&again.seeds, again.max_streams));
    assert_eq!((&settings.tunnels, &settings.binds), (&again.tunnels, &again.binds));
    assert!(
        settings
            .needs_restart(&load("[node]\nname = \"other\"\n").unwrap())
            .contains(&"node.name".to_owned())
    );
    assert!(settings.needs_restart(&settings).is_empty());
}

#[test]
fn every_setting_has_a_name_a_variable_and_a_help_of_its_own() {
    let distinct = |of: fn(&table::Setting) -> &str| {
        SETTINGS.iter().map(of).collect::<std::collections::BTreeSet<_>>().len() == SETTINGS.len()
    };
    assert!(
        distinct(|setting| setting.key)
            && distinct(|setting| setting.env)
            && distinct(|setting| setting.help)
    );
    assert!(SETTINGS.iter().all(|setting| setting.env.starts_with("SNOMESH_")));
    let schema = show::schema();
    for setting in SETTINGS {
        let pointer = format!("/properties/{}/properties/{}", setting.section(), setting.name());
        assert!(schema.pointer(&pointer).is_some(), "{pointer}");
    }
}

/// FEATURES P4.
#[test]
fn nodes_are_evicted_after_three_days_or_as_the_file_says_or_never() {
    for (text, after) in
        [("", Some(72)), ("[mesh]\nevict_after = \"24h\"", Some(24)), ("[mesh]\nevict_after = \"off\"", None)]
    {
        let settings = load(text).unwrap();
        assert_eq!(settings.evict_after, after.map(|hours| Duration::from_secs(hours * 3_600)));
    }
}
