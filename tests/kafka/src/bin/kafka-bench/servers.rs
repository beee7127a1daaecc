//! The servers that are measured, as children that end with this process.

use crate::chat::Dialect;
use crate::meter::Group;
use klatch_harness::process::{Process, Server};
use klatch_kafka_tests::{Cluster, PATIENCE};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names another `klatch-server` to measure.
const BINARY: &str = "KLATCH_SERVER";

/// One kind of server, running: one process or several on one topic.
pub struct Chat {
    /// How to talk to it.
    pub dialect: Dialect,
    /// Its processes, and what it keeps beside them.
    pub groups: Vec<Group>,
    servers: Vec<Server>,
    _redis: Option<Process>,
}

impl Chat {
    /// klatch, `nodes` times, with views in this folder.
    pub fn klatch(cluster: &Cluster, topic: &str, nodes: usize, folder: &Path) -> Chat {
        let start = |node: usize| {
            let mut command = mortal(&klatch_server().display().to_string());
            command.args(["--listen", "127.0.0.1:0", "--log-level", "error", "--log", &cluster.url(topic)]);
            let view = folder.join(format!("view-{topic}-{node}")).display().to_string();
            // Those who load it send more than one person does, and come from one address.
            let limits = ["publish_rate", "request_rate", "connections_per_address"];
            command.args(limits.iter().flat_map(|l| ["--set".into(), format!("limits.{l}=0")]));
            command.args(["--set", &format!("kafka.view_dir={view}")]);
            started("klatch-server", &mut command)
        };
        let servers: Vec<Server> = (0..nodes).map(start).collect();
        let groups = vec![Group { name: "server", ids: servers.iter().map(Server::id).collect() }];
        Chat { dialect: Dialect::Klatch, groups, servers, _redis: None }
    }

    /// The recipe, `nodes` times, with a Redis.
    pub fn recipe(cluster: &Cluster, topic: &str, nodes: usize, folder: &Path) -> Chat {
        let recipe = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
        assert!(recipe.join("node_modules").is_dir(), "run `npm ci` in {}", recipe.display());
        let socket = folder.join(format!("redis-{topic}")).display().to_string();
        let mut redis = mortal("redis-server");
        redis.args(["--port", "0", "--unixsocket", &socket, "--save", "", "--appendonly", "no"]);
        let redis = Process::start(&mut redis).unwrap_or_else(|e| panic!("redis-server: {e}"));
        assert!(redis.says("eady to accept connections", PATIENCE), "redis-server: {:?}", redis.output());
        let start = |_| {
            let mut command = mortal("node");
            command.env("NODE_ENV", "production");
            command.arg(recipe.join("recipe.mjs")).args([&socket, &cluster.addresses(), topic]);
            started("the recipe", &mut command)
        };
        let servers: Vec<Server> = (0..nodes).map(start).collect();
        let groups = vec![
            Group { name: "server", ids: servers.iter().map(Server::id).collect() },
            Group { name: "redis", ids: vec![redis.id()] },
        ];
        Chat { dialect: Dialect::SocketIo, groups, servers, _redis: Some(redis) }
    }

    /// The last line that each process printed.
    pub fn last_words(&self) -> Vec<String> {
        self.servers.iter().filter_map(|server| server.output().pop()).collect()
    }

    /// Where its processes listen.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.servers.iter().map(Server::address).collect()
    }
}

fn started(name: &str, command: &mut Command) -> Server {
    Server::start(command, PATIENCE).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The main thread starts them and lasts as long as this process.
fn mortal(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// What `KLATCH_SERVER` names, or the one that was built beside this program.
fn klatch_server() -> PathBuf {
    let beside = || Some(std::env::current_exe().ok()?.parent()?.join("klatch-server"));
    let path = std::env::var_os(BINARY).map(PathBuf::from).or_else(beside).unwrap_or_default();
    assert!(path.is_file(), "klatch-server is missing: cargo build --release -p klatch-server");
    path
}
