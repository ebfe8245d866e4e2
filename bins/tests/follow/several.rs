//! Several followers in one process.

use serde_json::json;

use super::world::*;

#[test]
fn followers_of_one_template_run_side_by_side_and_each_has_its_name_in_the_log() {
    let mut template = template();
    let port = free_port();
    template["cluster"]["listen_multiaddress"] = json!([format!("/ip4/127.0.0.1/tcp/{port}")]);
    let server = Server::of(&template);
    let ipfs = Ipfs::start();
    let home = Home::following("one", &server.service_json());
    home.init("two", &server.service_json());
    let mut peers = home.start(&["run", "one", "two"], &ipfs.address, &[]);
    peers.wait_for("\tone/cluster\t");
    peers.wait_for("\ttwo/cluster\t");
    wait_until("both", || {
        ["one", "two"]
            .iter()
            .all(|name| home.run(&[name, "info"]).ok().contains("Cluster Peer online: true\n"))
    });
    assert_eq!(peers.stop(), 0);
    assert_eq!(peers.said("** IPFS Cluster is READY **"), 2, "{:#?}", peers.seen);
    let taken =
        format!("the port of /ip4/127.0.0.1/tcp/{port} is taken: listening on one that is free instead");
    assert_eq!(peers.said(&taken), 1, "{:#?}", peers.seen);
    for name in ["one", "two"] {
        let named = peers.seen.iter().filter(|line| line.contains(&format!("\t{name}/")));
        assert!(named.filter(|line| line.contains("READY")).count() == 1, "{:#?}", peers.seen);
        assert!(!home.path(name, "cluster.lock").exists());
    }
}

#[test]
fn one_that_cannot_start_says_so_and_the_others_go_on() {
    let server = Server::of(&template());
    let ipfs = Ipfs::start();
    let home = Home::following("good", &server.service_json());
    home.init("bad", &format!("{}/none.json", server.url));
    let mut peers = home.start(&["good", "run", "bad", "new"], &ipfs.address, &[]);
    peers.wait_for("bad: unsuccessful request (404): not here");
    peers.wait_for("Try running \"ipfs-cluster-follow new init <config-url>\" first.");
    let mut peers = peers.ready();
    assert!(home.run(&["good", "info"]).ok().contains("Cluster Peer online: true\n"));
    assert_eq!(peers.stop(), 1);
}
