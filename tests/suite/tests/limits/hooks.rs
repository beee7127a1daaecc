//! Hooks of the host.

use crate::{Client, SOON, Stage, builder, publish};
use klatch::PublishHook;
use klatch::config::Limit;
use klatch::hooks::{PublishAnswer, PublishRequest};
use serde_json::json;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

/// Holds its thread until it is let go, then allows.
struct Blocks {
    entered: Sender<()>,
    release: Mutex<Receiver<()>>,
}

impl PublishHook for Blocks {
    fn publish(&self, _: PublishRequest, answer: PublishAnswer) {
        let _ = self.entered.send(());
        let _ = self.release.lock().unwrap().recv();
        answer.allow();
    }
}

fn blocks() -> (Arc<Blocks>, Receiver<()>, Sender<()>) {
    let ((entered, was_entered), (release, released)) = (channel(), channel());
    (Arc::new(Blocks { entered, release: Mutex::new(released) }), was_entered, release)
}

#[test]
fn limit_hook_timeout_ms() {
    let (hook, entered, release) = blocks();
    let limits = json!({"hook_timeout_ms": 5000, "hook_warn_ms": 0});
    let mut stage = Stage::timed_with(builder(limits).log("memory").publish_hook(hook));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    ann.send(publish(1, json!(1)));
    entered.recv_timeout(SOON).unwrap();
    stage.pass(4_999);
    stage.counted(&[]);
    stage.pass(64);
    let refused = ann.next();
    assert_eq!((&refused["name"], &refused["outcome"]), (&json!("hook_timeout"), &json!("not_stored")));
    stage.others_are_served();
    drop(release);
    ann.send(publish(2, json!(2)));
    assert_eq!(ann.next()["id"], "2");
    stage.counted(&[(Limit::HookTimeoutMs, 1)]);
}

#[test]
fn limit_hook_queue() {
    let (hook, entered, release) = blocks();
    let builder = builder(json!({"hook_queue": 2})).log("memory").publish_hook(hook);
    let mut stage = Stage::with(builder);
    // A connection asks once at a time. Four are in the hook, two wait.
    let mut clients: Vec<_> =
        (0..7).map(|n| Client::joined(&stage.engine, &format!("user=u{n}&room=lobby"))).collect();
    for (n, client) in clients.iter_mut().enumerate().take(6) {
        client.send(publish(n, json!(n)));
        if n < 4 {
            entered.recv_timeout(SOON).unwrap();
        }
    }
    stage.bob.fence();
    stage.counted(&[]);
    clients[6].send(publish(6, json!(6)));
    let refused = clients[6].next();
    assert_eq!((&refused["name"], &refused["outcome"]), (&json!("busy"), &json!("not_stored")));
    stage.counted(&[(Limit::HookQueue, 1)]);
    stage.others_are_served();
    drop(release);
    for _ in 0..6 {
        assert_eq!(clients[6].next()["type"], "publication");
    }
    stage.counted(&[(Limit::HookQueue, 1)]);
}

#[test]
fn limit_hook_warn_ms() {
    let (hook, entered, release) = blocks();
    let limits = json!({"hook_warn_ms": 1000});
    let mut stage = Stage::timed_with(builder(limits).log("memory").publish_hook(hook));
    let mut ann = Client::joined(&stage.engine, "user=ann&room=lobby");
    ann.send(publish(1, json!(1)));
    entered.recv_timeout(SOON).unwrap();
    stage.pass(1000);
    stage.counted(&[]);
    // Noticed while it runs, and once.
    stage.pass(1);
    stage.reaches(Limit::HookWarnMs, 1);
    stage.pass(1000);
    stage.others_are_served();
    drop(release);
    assert_eq!(ann.next()["id"], "1", "it is only warned of");
    stage.counted(&[(Limit::HookWarnMs, 1)]);
}
