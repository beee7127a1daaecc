//! Children that die with this process, however it ends: what nobody can end by hand must not be left behind.

use klatch_harness::process::Process;
use std::io;
use std::process::Command;
use std::sync::LazyLock;
use std::sync::mpsc::{Sender, channel};

/// A command for a child that is killed when the thread that starts it ends.
pub fn command(program: &str) -> Command {
    // It becomes the program, under the same process id.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

/// Starts such a child from a thread that lasts as long as this process, so that it outlives the thread that asks for it.
pub fn start(command: Command) -> io::Result<Process> {
    type Order = (Command, Sender<io::Result<Process>>);
    static STARTER: LazyLock<Sender<Order>> = LazyLock::new(|| {
        let (orders, incoming) = channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, answer) in incoming {
                let _ = answer.send(Process::start(&mut command));
            }
        });
        orders
    });
    let (answer, started) = channel();
    let gone = || io::Error::other("the thread that starts processes is gone");
    STARTER.send((command, answer)).map_err(|_| gone())?;
    started.recv().map_err(|_| gone())?
}
