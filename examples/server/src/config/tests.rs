use super::*;
use clap::Parser;

fn config(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("klatch.toml");
    let mut all = vec!["klatch-server".to_owned()];
    if let Some(text) = file {
        std::fs::write(&path, text).unwrap();
        all.extend(["--config".to_owned(), path.display().to_string()]);
    }
    all.extend(flags.iter().map(|f| (*f).to_owned()));
    let cli = crate::cli::Cli::try_parse_from(all).map_err(|e| e.to_string())?;
    let env = env.iter().map(|(k, v)| ((*k).into(), (*v).into()));
    load(&cli.serve, env).map_err(|e| {
        assert_eq!(e.status(), 2);
        e.to_string()
    })
}

fn refused(flags: &[&str], env: &[(&str, &str)], file: Option<&str>) -> String {
    config(flags, env, file).unwrap_err()
}

#[test]
fn with_nothing_said_only_the_address_differs_from_the_engines_defaults() {
    let got = config(&[], &[("PATH", "/bin"), ("KLATCH", "x")], Some("")).unwrap();
    let mut wanted = Settings::default();
    wanted.listen = vec![DEFAULT_LISTEN.into()];
    assert_eq!(got.settings, wanted);
    assert!(got.default_listen && got.warnings.is_empty());
    assert_eq!((got.log_level.as_str(), got.stop_timeout_ms), ("info", 10_000));
}

#[test]
fn properties_of_librdkafka_come_from_everywhere() {
    let file = "[kafka.properties]\n\"sasl.username\" = 'file'\nsecurity.protocol = 'file'\nlinger.ms = 1\nclient.id = 'a'";
    let env = [("KLATCH_KAFKA__PROPERTIES__SECURITY__PROTOCOL", "env")];
    let got = config(&["--set", "kafka.properties.linger.ms=7"], &env, Some(file)).unwrap();
    let all: Vec<_> = got.settings.kafka.properties.shown().collect();
    let expected =
        [("client.id", "a"), ("linger.ms", "7"), ("sasl.username", "file"), ("security.protocol", "env")];
    assert_eq!(all, expected);
    let text = refused(&["--set", "kafka.propertis.x=1"], &[], None);
    assert!(text.contains("unknown key"), "{text}");
    assert!(refused(&["--set", "kafka.properties=x"], &[], None).contains("kafka.properties"));
}

#[test]
fn later_sources_win() {
    let file = "log = 'file'\nshards = 1\norigins = ['*']\n[limits]\npublish_rate = 1\npublish_burst = 1\nheaders = 1";
    let env =
        [("KLATCH_LIMITS__PUBLISH_BURST", "2"), ("KLATCH_LIMITS__HEADERS", "2"), ("KLATCH_SHARDS", "2")];
    let got = config(
        &["--set", "limits.headers=3", "--set=log=set", "--shards", "4", "--set=shards=3"],
        &env,
        Some(file),
    )
    .unwrap()
    .settings;
    assert_eq!(got.origins, ["*"]);
    assert_eq!(got.limits.publish_rate, 1);
    assert_eq!(got.limits.publish_burst, 2);
    assert_eq!(got.limits.headers, 3);
    assert_eq!((got.log.as_str(), got.shards), ("set", 4));
    // Not touched by anybody.
    assert_eq!(got.limits.json_depth, 64);
}

#[test]
fn every_flag_and_variable_arrives() {
    let flags = "--listen [::1]:0 --listen localhost:1 --log d --accept-damage --retain-bytes 1GiB --retain-age 2d \
                 --origin https://a --origin https://b --stop-timeout 3s --log-level debug";
    let got = config(&flags.split_whitespace().collect::<Vec<_>>(), &[], None).unwrap();
    let s = &got.settings;
    assert_eq!(
        (&s.listen[..], &s.origins[..]),
        (&["[::1]:0".into(), "localhost:1".into()][..], &["https://a".into(), "https://b".into()][..])
    );
    assert_eq!(
        (s.storage.retain_bytes, s.storage.retain_age_ms, s.storage.accept_damage),
        (1 << 30, 172_800_000, true)
    );
    assert_eq!((got.stop_timeout_ms, got.log_level.as_str(), got.default_listen), (3000, "debug", false));

    let env = [
        ("KLATCH_LISTEN", "127.0.0.1:1, [::1]:2"),
        ("KLATCH_ORIGINS", r#"["https://a", "https://b"]"#),
        ("KLATCH_LOG", "memory"),
        ("KLATCH_STORAGE__RETAIN_BYTES", "2MiB"),
        ("KLATCH_STORAGE__RETAIN_AGE_MS", "1500"),
        ("KLATCH_LIMITS__HEARTBEAT_MS", "30s"),
        ("KLATCH_OPEN_USERS", "false"),
        ("KLATCH_STOP_TIMEOUT", "1m"),
        ("KLATCH_LOG_LEVEL", "warn"),
    ];
    let got = config(&[], &env, None).unwrap();
    let s = &got.settings;
    assert_eq!(s.listen, ["127.0.0.1:1", "[::1]:2"]);
    assert_eq!(s.origins, ["https://a", "https://b"]);
    assert_eq!((s.storage.retain_bytes, s.storage.retain_age_ms), (2 << 20, 1500));
    assert_eq!((s.limits.heartbeat_ms, s.open_users, s.log.as_str()), (30_000, false, "memory"));
    assert_eq!((got.stop_timeout_ms, got.log_level.as_str()), (60_000, "warn"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f.toml");
    std::fs::write(&path, "shards = 7").unwrap();
    assert_eq!(config(&[], &[("KLATCH_CONFIG", path.to_str().unwrap())], None).unwrap().settings.shards, 7);
}

#[test]
fn unknown_keys_are_refused_with_the_nearest() {
    let e = refused(&[], &[], Some("shards = 1\n\n[limits]\npublish_rat = 1\n[stroage]\n"));
    assert!(
        e.contains("klatch.toml:4: unknown key `limits.publish_rat`; did you mean `limits.publish_rate`?"),
        "{e}"
    );
    let e = refused(&["--set", "limit.publish_rate=0"], &[], None);
    assert!(
        e.contains("--set: unknown key `limit.publish_rate`; did you mean `limits.publish_rate`?"),
        "{e}"
    );
    let e = refused(&[], &[("KLATCH_LIMITS__PUBLISH_RATES", "0")], None);
    assert!(
        e.contains(
            "KLATCH_LIMITS__PUBLISH_RATES names no setting; did you mean KLATCH_LIMITS__PUBLISH_RATE?"
        ),
        "{e}"
    );
    // One underscore is not enough.
    let e = refused(&[], &[("KLATCH_LIMITS_PUBLISH_RATE", "0")], None);
    assert!(e.contains("did you mean KLATCH_LIMITS__PUBLISH_RATE?"), "{e}");
    // What a container platform sets for a service named klatch is not ours.
    let got = config(&[], &[("KLATCH_PORT", "tcp://10.0.0.1:80"), ("KLATCH_SERVICE_HOST", "10.0.0.1")], None)
        .unwrap();
    assert_eq!(got.warnings, ["in the environment, KLATCH_PORT, KLATCH_SERVICE_HOST names no setting"]);
}

#[test]
fn wrong_values_are_blamed_on_their_source() {
    for (flags, env, file, parts) in [
        (
            &["--set", "limits.publish_rate=x"][..],
            &[][..],
            None,
            &["--set", "limits.publish_rate", "no whole number"][..],
        ),
        (
            &["--set", "limits.publish_rate=5000000000"],
            &[],
            None,
            &["--set: limits.publish_rate: invalid value"],
        ),
        (&["--set", "limits"], &[], None, &["KEY=VALUE"]),
        (&["--set", "limits=1"], &[], None, &["unknown key `limits`"]),
        (
            &[],
            &[("KLATCH_OPEN_USERS", "yes")],
            None,
            &["KLATCH_OPEN_USERS: open_users", "neither true nor false"],
        ),
        (&[], &[("KLATCH_STOP_TIMEOUT", "5")], None, &["KLATCH_STOP_TIMEOUT", "unit"]),
        (&[], &[], Some("shards = 'two'"), &["klatch.toml", "line 1", "invalid type"]),
        (&[], &[], Some("limits = 1"), &["klatch.toml", "line 1", "invalid type"]),
        (&[], &[], Some("= 1"), &["klatch.toml", "line 1"]),
        (&[], &[], Some("listen = []"), &["listen is empty"]),
        (&["--retain-bytes", "10GB"], &[], None, &["--retain-bytes", "GiB"]),
        (&["--listen", "8080"], &[], None, &["\"8080\" is no address"]),
        (&["--listen", "::1:8080"], &[], None, &["[::1]:8080"]),
        (&["--listen", "127.0.0.1:99999"], &[], None, &["is no address"]),
        (&["--listen", "http://localhost:80"], &[], None, &["is no address"]),
        (&["--config", "/no/such/file"], &[], None, &["cannot read the settings in /no/such/file"]),
    ] {
        let e = refused(flags, env, file);
        for part in parts {
            assert!(e.contains(part), "{flags:?} {env:?} {file:?}: {e}");
        }
    }
}

#[test]
fn what_is_printed_can_be_read_again() {
    let first =
        config(&["--set", "limits.headers=7", "--listen", "[::1]:0", "--origin", "*"], &[], None).unwrap();
    let text = toml::to_string(&first.settings).unwrap();
    assert_eq!(config(&[], &[], Some(&text)).unwrap().settings, first.settings);
}
