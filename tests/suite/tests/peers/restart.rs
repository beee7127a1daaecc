//! X13: the server is killed, and everybody comes back at once.
//!
//! Elsewhere all clients reconnected in the same instant and brought the server down again (mattermost-webapp#10960, rails#40229,
//! phoenix#4045). When a client comes back is its own affair (docs/protocol.md: a random delay that grows); the server's part is that
//! none is lost, whenever they come.

use crate::{ROOM, check, crowd, metric, turn_until, vitals};
use klatch_harness::checker::Expect;
use klatch_suite::Launch;
use klatch_suite::crowd::{Crowd, Plan};
use klatch_suite::helper::Helper;
use klatch_suite::server::stop;

#[test]
fn x13_five_thousand_come_back_at_once() {
    const MEMBERS: usize = 5_000;
    let data = tempfile::tempdir().unwrap();
    let launch = Launch::new(data.path()).arg("--log-level").arg("warn");
    // An address of its own: while the server is down, nobody may come to hold its port.
    let mut server = launch.clone().listen("127.77.0.2:0").start();
    let launch = launch.listen(server.address());
    let mut publisher = Crowd::new(&server.url(), &Plan::new(ROOM, "publisher", 1));
    publisher.join();
    // They come all at once the first time too, so that before and after are the same but for the kill.
    let plan = Plan { at_once: MEMBERS, ..Plan::new(ROOM, "member", MEMBERS) };
    let mut members = Helper::crowd(&mut crowd(), &server.url(), &plan);
    let last = publisher.pour(0, 100, 256, 4, |_| {});
    members.order(&format!("reach {last}"));
    members.wait_for("reached");
    let before = vitals(&server);

    server.kill().unwrap();
    let server = launch.start();
    publisher.join();
    let last = publisher.pour(0, 100, 256, 4, |_| {});
    members.order(&format!("reach {last}"));
    members.wait_for("reached");
    turn_until(&mut publisher, "all to be there", || metric(&server, "klatch_members") == MEMBERS as u64 + 1);
    assert_eq!(metric(&server, "klatch_resumes_total"), MEMBERS as u64 + 1);
    assert_eq!(metric(&server, "klatch_resets_total"), 0);
    let after = vitals(&server);
    println!("{before:?} before, {after:?} afterwards");
    // A tenth, and a MiB of what the allocator happens to keep.
    assert!(after.resident <= before.resident * 11 / 10 + (1 << 20), "{before:?} {after:?}");
    assert!(after.threads <= before.threads, "{before:?} {after:?}");

    let mut logs = members.finish(last, data.path());
    publisher.reach(last);
    logs.extend(publisher.into_logs());
    let expect = Expect {
        messages: 200,
        deliveries: 200 * (MEMBERS as u64 + 1),
        resumes: MEMBERS as u64 + 1,
        resets_at_most: Some(0),
        ..Expect::default()
    };
    check(&logs, data.path(), expect);
    stop(server);
}
