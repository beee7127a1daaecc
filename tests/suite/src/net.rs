//! Two hosts and a cable between them, in network namespaces: a link that can be cut without either side being told.
//!
//! The namespaces live as long as two small processes do, which end with this process, so that nothing is left behind.

use crate::helper::Helper;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

/// See the module.
#[derive(Debug)]
pub struct Cable {
    /// Keeps this side.
    _here: Helper,
    there: Helper,
}

/// The address of this side.
pub const HERE: &str = "10.9.0.1";

impl Cable {
    /// Makes both hosts, joined, and moves this thread to one of them: from now on it and what it starts have that one's network.
    ///
    /// # Panics
    /// If the system refuses; it takes root and the program `ip`.
    pub fn lay() -> Cable {
        let host = || {
            let helper =
                Helper::start(Command::new("unshare").args(["--net", "sh", "-c", "echo here; exec cat"]));
            helper.wait_for("here");
            helper
        };
        let (here, there) = (host(), host());
        let namespace = File::open(format!("/proc/{}/ns/net", here.id())).unwrap_or_else(|e| panic!("{e}"));
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
            .unwrap_or_else(|e| panic!("cannot enter a network namespace: {e}"));
        let cable = Cable { _here: here, there };
        let peer = cable.there.id().to_string();
        ip(&["link", "set", "lo", "up"]);
        ip(&["link", "add", "near", "type", "veth", "peer", "name", "far", "netns", &peer]);
        ip(&["address", "add", "10.9.0.1/24", "dev", "near"]);
        ip(&["link", "set", "near", "up"]);
        cable.far(&["ip", "address", "add", "10.9.0.2/24", "dev", "far"]);
        cable.far(&["ip", "link", "set", "lo", "up"]);
        cable.mend();
        cable
    }

    /// A command that runs on the other host.
    pub fn there(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--net", "--target", &self.there.id().to_string(), program]);
        command
    }

    /// Cuts the cable: what is sent on either side is lost, and nobody is told.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn cut(&self) {
        self.far(&["ip", "link", "set", "far", "down"]);
    }

    /// Mends it.
    ///
    /// # Panics
    /// If the system refuses.
    pub fn mend(&self) {
        self.far(&["ip", "link", "set", "far", "up"]);
    }

    fn far(&self, args: &[&str]) {
        let [program, args @ ..] = args else { return };
        run(self.there(program).args(args));
    }
}

fn ip(args: &[&str]) {
    run(Command::new("ip").args(args));
}

fn run(command: &mut Command) {
    let text = format!("{command:?}");
    let output = command.output().unwrap_or_else(|e| panic!("{text}: {e} (root and iproute2 are needed)"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}: {said} (root is needed)");
}
