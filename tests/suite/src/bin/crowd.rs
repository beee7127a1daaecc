//! Clients in a process of their own, which can be stopped and can be many: members of a room, and an address that storms.
//!
//! It says on stdout what happens, takes orders on stdin, and ends when that does.

// A test's own program: it talks by its output and ends with a panic.
#![allow(clippy::print_stdout)]

use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::storm::{self, Storm};
use std::io::BufRead;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::Duration;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let (tx, orders) = channel();
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if tx.send(line).is_err() {
                return;
            }
        }
    });
    match args[..] {
        ["members", url, plan] => members(url, &parse(plan), &orders),
        ["storm", address, plan] => {
            let plan: Storm = parse(plan);
            let orders = move || orders.try_recv() == Err(TryRecvError::Disconnected);
            let report = storm::run(address, &plan, orders, || println!("raging"));
            println!("over {}", serde_json::to_string(&report).unwrap_or_default());
        }
        _ => panic!("crowd members URL PLAN | crowd storm ADDRESS PLAN"),
    }
}

fn parse<T: serde::de::DeserializeOwned>(json: &str) -> T {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("{e} in {json}"))
}

fn members(url: &str, plan: &Plan, orders: &Receiver<String>) {
    let mut crowd = Crowd::new(url, plan);
    if plan.deaf {
        // They do not hear that they have joined.
        crowd.until("everybody to ask", |c| c.paused() == plan.members);
    } else {
        crowd.join();
    }
    println!("joined");
    loop {
        crowd.turn(Duration::from_millis(20));
        let order = match orders.try_recv() {
            Ok(order) => order,
            Err(TryRecvError::Empty) => continue,
            Err(TryRecvError::Disconnected) => return,
        };
        match order.split(' ').collect::<Vec<_>>()[..] {
            ["pause"] => (0..plan.members).for_each(|n| crowd.pause(n)),
            ["read"] => crowd.unpause(),
            ["sip", n] => crowd.sip(parse(n)),
            ["reach", offset] => {
                crowd.reach(parse(offset));
                println!("reached");
            }
            ["finish", offset, path] => {
                crowd.reach(parse(offset));
                let closes = crowd.closes().clone();
                let logs = serde_json::to_vec(&crowd.into_logs()).unwrap_or_else(|e| panic!("{e}"));
                std::fs::write(path, logs).unwrap_or_else(|e| panic!("{path}: {e}"));
                println!("finished {closes:?}");
                return;
            }
            _ => panic!("no such order: {order}"),
        }
    }
}
