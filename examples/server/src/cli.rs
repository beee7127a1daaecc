//! The command line.

use crate::units;
use clap::{Args, Parser, Subcommand};
use klatch_harness::replay::Speed;
use std::path::PathBuf;

const EXAMPLES: &str = "\
Examples:
  klatch-server                                     a chat on http://127.0.0.1:8080/, kept in ./klatch-data
  klatch-server --listen '[::1]:0' --log memory     any free port, nothing on disk
  klatch-server --listen 0.0.0.0:8080 --origin 'https://*.example.com' --log /var/lib/klatch
  klatch-server --log kafka://127.0.0.1:9092/chats  any number of servers, one order
  klatch-server --set limits.publish_rate=0         any setting by its key
  klatch-server --print-config > klatch.toml        a file to start from
  klatch-server verify klatch-data                  is the log whole?

Settings come from, later ones winning: defaults, --config FILE, the environment (KLATCH_LISTEN,
KLATCH_LIMITS__PUBLISH_RATE, ...), flags. docs/configuration.md lists every key.

SIGTERM and Ctrl-C stop the server in order; a second one ends it at once. Exit status: 0 stopped in order,
1 failed, 2 wrong arguments or settings.";

/// Chat rooms over WebSocket, with a durable, ordered log. Without a command it serves.
#[derive(Debug, Parser)]
#[command(name = "klatch-server", version, after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
#[command(max_term_width = 110)]
pub struct Cli {
    /// What to do; none: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The flags of `serve`, which may be left out.
    #[command(flatten)]
    pub serve: Serve,
}

/// What the program does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve (the default).
    #[command(after_help = EXAMPLES)]
    Serve(Box<Serve>),
    /// Check a log without changing it; it may be in use. Exit status 1 if it is damaged.
    Verify(Verify),
    /// Play recorded chat against a server, check what comes of it, and report. Exit status 1 if anything is wrong.
    Replay(Replay),
}

/// The flags of `serve`.
#[derive(Args, Debug, Default)]
pub struct Serve {
    /// Address to listen on, HOST:PORT or [IPV6]:PORT; port 0 takes a free one. May be repeated [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS", help_heading = "Network")]
    pub listen: Vec<String>,
    /// Origin that browsers may connect from: https://HOST, https://*.HOST or *. May be repeated [default: only pages
    /// of the host that is asked for]
    #[arg(long, value_name = "ORIGIN", help_heading = "Network")]
    pub origin: Vec<String>,
    /// Threads that serve connections [default: one per core]
    #[arg(long, value_name = "N", help_heading = "Network")]
    pub shards: Option<usize>,

    /// Where messages are kept: a directory, `memory`, or a Kafka topic, kafka://HOST[:PORT][,HOST...]/TOPIC
    /// [default: klatch-data]
    #[arg(long, value_name = "DIR|memory|kafka://...", help_heading = "Log")]
    pub log: Option<String>,
    /// Drop the oldest messages while the log is larger than this, as in 10GiB [default: keep all]
    #[arg(long, value_name = "SIZE", value_parser = units::size, help_heading = "Log")]
    pub retain_bytes: Option<u64>,
    /// Drop messages older than this, as in 30d [default: keep all]
    #[arg(long, value_name = "TIME", value_parser = units::time, help_heading = "Log")]
    pub retain_age: Option<u64>,
    /// Go on with a log that is damaged: what `klatch-server verify` calls lost is given up
    #[arg(long, help_heading = "Log")]
    pub accept_damage: bool,

    /// A TOML file with settings [env: KLATCH_CONFIG]
    #[arg(long, value_name = "FILE", help_heading = "Settings")]
    pub config: Option<PathBuf>,
    /// Any setting by its key, as in limits.publish_rate=0. May be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Settings")]
    pub set: Vec<String>,
    /// Print the settings that would be used, as TOML, and exit
    #[arg(long, help_heading = "Settings")]
    pub print_config: bool,

    /// What goes to the operator's log on stderr: off, error, warn, info, debug, trace, or by module as in
    /// warn,klatch::log=debug [env: KLATCH_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL", help_heading = "Running")]
    pub log_level: Option<String>,
    /// How long stopping may take [env: KLATCH_STOP_TIMEOUT] [default: 10s]
    #[arg(long, value_name = "TIME", value_parser = units::time, help_heading = "Running")]
    pub stop_timeout: Option<u64>,
}

/// The flags of `verify`.
#[derive(Args, Debug)]
pub struct Verify {
    /// The log's directory
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// The flags of `replay`.
#[derive(Args, Debug)]
pub struct Replay {
    /// Recorded chat: JSON lines {"room","event":"message"|"join"|"leave"|"rename","sender","text","to"}
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Messages a second over all rooms, or `max`: as fast as they are acknowledged
    #[arg(long, value_name = "max|N", default_value = "max", value_parser = speed)]
    pub speed: Speed,
    /// The server, as in ws://127.0.0.1:8080/ws [default: an engine in this process on a free port]
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Where the engine in this process keeps messages: a directory, or `memory` [default: a directory that is deleted
    /// at the end]
    #[arg(long, value_name = "DIR|memory", conflicts_with = "url")]
    pub log: Option<String>,
    /// Most messages, taken from all rooms in turn [default: all]
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Break so many connections without a word, for every 1,000 messages; they resume
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1000))]
    pub drops_per_1000: u32,
    /// Send every Nth message twice with the same id; 0: none
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub duplicate_every: u64,
    /// Clients in each room that only listen
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub listeners: usize,
    /// One connection per sender for all its rooms, instead of one for each room
    #[arg(long)]
    pub per_sender: bool,
    /// Most publishes a second of one connection; 0: any number [default: 45 with --url, else 0]
    #[arg(long, value_name = "N")]
    pub publish_rate: Option<u32>,
    /// For drops and ids; a run with the seed of an earlier one on the same log sends its messages again [default: from
    /// the clock]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Print the report as one JSON object
    #[arg(long)]
    pub json: bool,
}

fn speed(text: &str) -> Result<Speed, String> {
    if text == "max" {
        return Ok(Speed::Max);
    }
    let rate = text.parse::<f64>().ok().filter(|r| r.is_finite() && *r > 0.0);
    rate.map(Speed::PerSecond).ok_or_else(|| format!("{text:?} is neither `max` nor a number above 0"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serving_is_the_default() {
        let cli = Cli::try_parse_from(["klatch-server", "--listen", "[::1]:0", "--listen", "a:1"]).unwrap();
        assert!(cli.command.is_none());
        assert_eq!(cli.serve.listen, ["[::1]:0", "a:1"]);
        let cli = Cli::try_parse_from(["klatch-server", "serve", "--retain-age", "1d"]).unwrap();
        assert!(matches!(cli.command, Some(Command::Serve(s)) if s.retain_age == Some(86_400_000)));
    }

    #[test]
    fn speeds() {
        assert_eq!(speed("max"), Ok(Speed::Max));
        assert_eq!(speed("50"), Ok(Speed::PerSecond(50.0)));
        for bad in ["0", "-1", "fast", "inf", "NaN", ""] {
            assert!(speed(bad).is_err(), "{bad}");
        }
    }
}
