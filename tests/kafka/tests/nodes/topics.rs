//! What a node makes of the topic at its start.

use crate::*;

/// Starts a node that must not start, and returns what it said.
fn refused(launch: &Launch) -> String {
    let output = launch.run();
    assert!(!output.status.success());
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn nodes_that_start_at_the_same_time_make_one_topic_and_all_serve_it() {
    let world = World::new(Cluster::one().start());
    let nodes = std::thread::scope(|threads| {
        let starts = ["a", "b", "c"].map(|name| {
            let launch = world.node(name);
            threads.spawn(move || launch.start())
        });
        starts.map(|start| start.join().unwrap())
    });
    assert_eq!(world.oracle.ends(TOPIC).len(), PARTITIONS as usize);
    for (n, node) in nodes.iter().enumerate() {
        stored(&mut client(&node.url(), "ann"), "lobby", &format!("m{n}"), "1");
    }
    // The one broker has the only copy: an operator is told.
    assert_eq!(get(&nodes[0].url(), "/readyz"), (200, "ready\ndurability: single\n".into()));
    // One that looks at everything klatch relies on finds it.
    let verifier = world.node("d").set("kafka.topic_mode", "verify").start();
    tells("d", &verifier.url(), &world.expected().rooms);
}

#[test]
fn a_topic_that_is_not_what_klatch_needs_is_refused_with_what_mends_it() {
    let world = World::new(Cluster::one().start());
    let said = refused(&world.node("verifies").set("kafka.topic_mode", "verify"));
    assert!(said.contains("does not exist") && said.contains("kafka.topic_mode"), "{said}");

    for (topic, partitions, property, mends) in [
        (
            "create-time",
            PARTITIONS,
            "message.timestamp.type=CreateTime",
            "message.timestamp.type=LogAppendTime",
        ),
        ("compacted", PARTITIONS, "cleanup.policy=compact", "cleanup.policy=delete"),
        ("few", 3, "cleanup.policy=delete", "has 3 partitions and kafka.partitions is 16"),
    ] {
        let time = "message.timestamp.type=LogAppendTime";
        let properties =
            if property.starts_with("message.timestamp") { vec![property] } else { vec![property, time] };
        world.oracle.create(topic, partitions, &properties);
        let said = refused(&world.node_at(topic, &world.cluster.url(topic)));
        assert!(said.contains(mends), "{topic}: {said}");
    }
    // Where nobody may look at a topic's configuration, the operator has to know.
    drop(world.node_at("skip", &world.cluster.url("create-time")).set("kafka.topic_mode", "skip").start());
}
