//! Hooks that block for ever, and hooks that never answer.

use crate::{Client, SECONDS, SOON, alone, becomes, files, on, threads};
use klatch::hooks::{
    Authorizer, ConnectAnswer, ConnectRequest, JoinAnswer, JoinRequest, PublishAnswer, PublishHook,
    PublishRequest,
};
use klatch::{Engine, HistoryQuery, Message, Settings};
use serde_json::json;
use std::any::Any;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

/// Does something else than to answer, where it is asked to.
struct Stuck {
    block: bool,
    released: Mutex<bool>,
    release: Condvar,
    kept: Mutex<Vec<Box<dyn Any + Send>>>,
}

impl Stuck {
    fn new(block: bool) -> Arc<Stuck> {
        Arc::new(Stuck {
            block,
            released: Mutex::new(false),
            release: Condvar::new(),
            kept: Mutex::default(),
        })
    }

    fn hold(&self, answer: impl Any + Send) {
        if self.block {
            let released = self.released.lock().unwrap();
            drop(self.release.wait_while(released, |released| !*released).unwrap());
            return drop(answer);
        }
        self.kept.lock().unwrap().push(Box::new(answer));
    }
}

impl Authorizer for Stuck {
    fn connect(&self, request: ConnectRequest, answer: ConnectAnswer) {
        if request.token == "stuck" {
            return self.hold(answer);
        }
        answer.allow(&request.user);
    }
    fn join(&self, request: JoinRequest, answer: JoinAnswer) {
        if request.room == "stuck" {
            return self.hold(answer);
        }
        answer.allow();
    }
}

impl PublishHook for Stuck {
    fn publish(&self, request: PublishRequest, answer: PublishAnswer) {
        if &request.data[..] == b"\"stuck\"" {
            return self.hold(answer);
        }
        answer.allow();
    }
}

/// Each hook in turn is stuck, for more calls than there are threads; the engine stops all the same, and lets go of its directory.
fn stuck(block: bool) {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().to_str().unwrap();
    drop(on(log).start().unwrap());
    let before = (threads(), files());
    for entry in ["connect", "join", "publish"] {
        let hook = Stuck::new(block);
        let mut settings = Settings::default();
        settings.limits.hook_timeout_ms = 500;
        settings.shards = 1;
        settings.log = log.into();
        settings.listen = vec!["127.0.0.1:0".into()];
        let builder = Engine::builder().settings(settings);
        let engine = builder.authorizer(hook.clone()).publish_hook(hook.clone()).start().unwrap();
        let mut clients: Vec<Client> =
            (0..8).map(|n| Client::connect(&engine, &format!("user=u{n}&room=lobby"))).collect();
        clients.iter_mut().for_each(|c| drop(c.next_of("joined")));
        match entry {
            "connect" => {
                let mut late: Vec<_> = (0..8).map(|_| Client::connect(&engine, "token=stuck")).collect();
                for client in &mut late {
                    assert_eq!(client.closed(), Some(4004), "told to come again");
                }
            }
            _ => {
                let ask = match entry {
                    "join" => json!({"type": "join", "room": "stuck"}),
                    _ => json!({"type": "publish", "room": "lobby", "data": "stuck"}),
                };
                clients.iter_mut().for_each(|c| c.send(ask.clone()));
                for client in &mut clients {
                    assert_eq!(client.next_of("error")["name"], "hook_timeout");
                }
            }
        }
        // Whoever needs no hook is served.
        engine.publish(Message::json("lobby", "1")).wait().unwrap();
        for client in &mut clients {
            client.next_of("publication");
        }
        let readers: Vec<_> =
            clients.into_iter().map(|mut c| std::thread::spawn(move || c.closed())).collect();
        let began = Instant::now();
        engine.stop(SECONDS).unwrap();
        assert!(began.elapsed() < SECONDS + SOON);
        for reader in readers {
            assert_eq!(reader.join().unwrap(), Some(4000));
        }
        // Threads that cannot be ended from outside, and the way of the answers back to their shard; nothing else.
        let blocked = if block { 4 } else { 0 };
        becomes((before.0 + blocked, before.1 + 1), || (threads(), files()));
        let next = on(log).start().unwrap();
        assert!(next.history("lobby", HistoryQuery::default()).unwrap().last > 0);
        drop(next);
        // Answers that come after all that go nowhere.
        *hook.released.lock().unwrap() = true;
        hook.release.notify_all();
        hook.kept.lock().unwrap().drain(..).for_each(answer_late);
        drop(engine);
        becomes(before, || (threads(), files()));
    }
}

fn answer_late(answer: Box<dyn Any + Send>) {
    match answer.downcast::<PublishAnswer>() {
        Ok(answer) => answer.allow(),
        Err(other) => drop(other),
    }
}

#[test]
fn hooks_that_block_for_ever_hold_nobody_else_up() {
    alone(|| stuck(true));
}

#[test]
fn hooks_that_never_answer_hold_nobody_else_up() {
    alone(|| stuck(false));
}
