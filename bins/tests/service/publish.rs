//! Publishing a cluster: the template, the configuration of followers, and followers that are made from it.

use std::collections::BTreeSet;
use std::process::Child;

use ipfs_cluster::types::Cid;
use ipfs_cluster_bins::service::config::{ConsensusSection, PeerConfig};
use ipfs_cluster_bins::service::folder::Folder;

use super::http::{self, Server};
use super::ports::free_port;
use super::process::Running;
use super::remote::pointing_to;
use super::run::{Ipfs, start};
use super::wait::wait_until;
use super::*;

/// Where the reference's programs are.
const GO_VARIABLE: &str = "IPFS_CLUSTER_MIXED_GO";

fn id(home: &Home) -> String {
    home.run(&["id"]).stdout.trim().to_owned()
}

fn id_in(address: &str) -> &str {
    address.rsplit('/').next().unwrap()
}

fn publisher() -> Home {
    let home = Home::new();
    assert_eq!(home.run(&["init", "--collaborative"]).code, 0);
    home
}

fn documents(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[test]
fn the_first_peer_of_a_collaborative_cluster_trusts_itself_alone() {
    let home = Home::new();
    let ran = home.run(&["init", "--collaborative"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    let own = id(&home);
    for said in ["Collaborative cluster \"collab-", "follow-config --output", "run --init <URL", own.as_str()]
    {
        assert!(ran.stderr.contains(said), "{said}: {}", ran.stderr);
    }
    let file = home.service_json();
    let crdt = &file["consensus"]["crdt"];
    assert_eq!(crdt["trusted_peers"], json!([own]));
    assert_eq!(crdt["cluster_name"], format!("collab-{}", &own[own.len() - 8..]));
    assert_eq!(file["cluster"]["secret"].as_str().unwrap().len(), 64);
    assert_eq!(file["cluster"]["replication_factor_min"], -1);
    assert_eq!(file["cluster"]["replication_factor_max"], -1);
    assert_eq!(file["cluster"]["mdns_interval"], "10s");
    assert_eq!(file["api"]["restapi"]["security"], "strict");

    // Made again, it is the same peer in the same cluster, but for the secret.
    assert_eq!(home.run(&["init", "--collaborative", "--force"]).code, 0);
    let again = home.service_json();
    assert_eq!(again["consensus"], file["consensus"]);
    assert_ne!(again["cluster"]["secret"], file["cluster"]["secret"]);
}

#[test]
fn a_second_publisher_trusts_the_first_too_and_says_which_cluster_it_is_of() {
    let home = Home::new();
    let ran = home.run(&["init", "--collaborative", "--cluster-name", "wiki", "--peers", PEER_A]);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let crdt = home.service_json()["consensus"]["crdt"].clone();
    let mut both = [id(&home), id_in(PEER_A).to_owned()];
    both.sort_unstable();
    assert_eq!(crdt["trusted_peers"], json!(both));
    assert_eq!(crdt["cluster_name"], "wiki");
    let followers = documents(&home.run(&["follow-config", "--address", "/dns4/a.example/tcp/9096"]));
    assert_eq!(followers["consensus"]["crdt"]["trusted_peers"], json!(both));
    let expected = [format!("/dns4/a.example/tcp/9096/p2p/{}", id(&home)), PEER_A.to_owned()];
    assert_eq!(followers["cluster"]["peer_addresses"], json!(expected), "the other's is in the peerstore");
    // What variables say counts more than the template.
    let home = Home::new();
    let variables = [("CLUSTER_CRDT_TRUSTEDPEERS", id_in(PEER_B)), ("CLUSTER_CRDT_CLUSTERNAME", "other")];
    assert_eq!(home.run_with(&["init", "--collaborative"], &variables, "").code, 0);
    let crdt = home.service_json()["consensus"]["crdt"].clone();
    assert_eq!((&crdt["trusted_peers"], &crdt["cluster_name"]), (&json!([id_in(PEER_B)]), &json!("other")));
}

#[test]
fn a_template_that_would_have_no_effect_is_refused() {
    for arguments in [
        &["init", "--collaborative", "--consensus", "solo"][..],
        &["init", "--cluster-name", "x", "--consensus", "solo"],
        &["init", "--collaborative", "http://127.0.0.1:1/service.json"],
    ] {
        let home = Home::new();
        let ran = home.run(arguments);
        assert_eq!(ran.code, 1, "{arguments:?}");
        assert!(ran.stderr.starts_with("error choosing a template: --collaborative"), "{}", ran.stderr);
        assert!(!home.config.exists());
    }
}

#[test]
fn followers_get_what_they_need_and_nothing_that_is_private() {
    let home = publisher();
    assert_eq!(home.run_with(&["users", "add", "operator"], &[], "correct horse\n").code, 0);
    let key = serde_json::from_str::<Value>(&home.read("identity.json")).unwrap()["private_key"].clone();
    let own = id(&home);
    home.change_service_json(|file| {
        // As the reference had it once, and as its API over libp2p has it.
        file["cluster"]["private_key"] = key.clone();
        file["cluster"]["peername"] = json!("the-name-of-my-machine");
        file["api"]["restapi"]["id"] = json!(own);
        file["api"]["restapi"]["private_key"] = key.clone();
        file["api"]["restapi"]["libp2p_listen_multiaddress"] = json!("/ip4/127.0.0.1/tcp/7");
        file["api"]["restapi"]["http_log_file"] = json!("/somewhere/of/mine");
        file["ipfs_connector"]["ipfshttp"]["node_multiaddress"] = json!("/ip4/10.99.99.99/tcp/5001");
        file["cluster"]["state_sync_interval"] = json!("7m0s");
        file["informer"]["tags"]["tags"] = json!({"region": "my cellar"});
        file["allocator"]["balanced"]["allocate_by"] = json!(["tag:region", "freespace"]);
    });
    let arguments = ["follow-config", "--address", "/ip4/203.0.113.1/tcp/9096", "--name", "wiki"];
    let ran = home.run(&arguments);
    let followers = documents(&ran);
    for private in [
        key.as_str().unwrap(),
        "private_key",
        "basic_auth",
        "argon2",
        "operator",
        "the-name-of-my-machine",
        "/somewhere",
        "10.99.99.99",
        "my cellar",
    ] {
        assert!(!ran.stdout.contains(private), "{private}: {}", ran.stdout);
    }
    let own = home.service_json();
    let sections: Vec<&str> = followers.as_object().unwrap().keys().map(String::as_str).collect();
    let expected = [
        "cluster",
        "consensus",
        "ipfs_connector",
        "pin_tracker",
        "monitor",
        "allocator",
        "informer",
        "datastore",
    ];
    assert_eq!(BTreeSet::from_iter(sections), BTreeSet::from(expected));
    let cluster = &followers["cluster"];
    assert_eq!(cluster["secret"], own["cluster"]["secret"]);
    assert_eq!(cluster["peername"], "wiki-follower");
    assert_eq!(cluster["follower_mode"], true);
    assert_eq!(cluster["state_sync_interval"], "7m0s");
    assert_eq!(cluster["peer_addresses"], json!([format!("/ip4/203.0.113.1/tcp/9096/p2p/{}", id(&home))]));
    assert_eq!(followers["consensus"]["crdt"]["cluster_name"], own["consensus"]["crdt"]["cluster_name"]);
    assert_eq!(followers["ipfs_connector"]["ipfshttp"]["node_multiaddress"], "/ip4/127.0.0.1/tcp/5001");
    assert_eq!(followers["informer"]["tags"]["tags"], json!({"group": "default", "region": "default"}));
    assert!(ran.stderr.contains("NOTE: this configuration contains the secret"), "{}", ran.stderr);
    assert!(ran.stderr.contains("ipfs-cluster-follow wiki run --init <URL>"), "{}", ran.stderr);

    let file = home.home.join("follow.json");
    let ran_to_file = home.run(&[&arguments[..], &["--output", file.to_str().unwrap()]].concat());
    assert_eq!((ran_to_file.code, ran_to_file.stdout.as_str()), (0, ""));
    assert_eq!(fs::read_to_string(file).unwrap(), ran.stdout);
}

#[test]
fn without_an_address_it_is_where_the_peer_listens() {
    let home = publisher();
    let own = id(&home);
    let listening = |addresses: Value| {
        home.change_service_json(|file| file["cluster"]["listen_multiaddress"] = addresses);
        home.run(&["follow-config"])
    };
    let found = documents(&listening(json!(["/ip4/0.0.0.0/tcp/9096", "/ip4/0.0.0.0/udp/9096/quic"])));
    let found = found["cluster"]["peer_addresses"].as_array().unwrap().clone();
    assert!(!found.is_empty());
    for address in &found {
        let address = address.as_str().unwrap();
        assert!(!address.contains("0.0.0.0") && !address.contains("quic"), "{address}");
        assert!(address.ends_with(&format!("/tcp/9096/p2p/{own}")), "{address}");
        assert!(found.len() == 1 || !address.contains("/127."), "{found:?}");
    }
    let ran = listening(json!("/ip4/127.0.0.1/tcp/7777"));
    assert!(ran.stderr.contains("NOTE: this peer can be met only on this machine"), "{}", ran.stderr);
    let expected = json!([format!("/ip4/127.0.0.1/tcp/7777/p2p/{own}")]);
    assert_eq!(documents(&ran)["cluster"]["peer_addresses"], expected);
    let ran = listening(json!("/ip4/10.0.0.9/tcp/7777"));
    assert!(ran.stderr.contains("those of a private network"), "{}", ran.stderr);
    let ran = listening(json!("/ip4/0.0.0.0/tcp/0"));
    assert!(ran.code == 1 && ran.stdout.is_empty() && ran.stderr.contains("--address"), "{}", ran.stderr);
}

#[test]
fn what_cannot_be_published_is_refused_with_the_way_out() {
    let everybody = Home::initialized();
    let solo = Home::new();
    assert_eq!(solo.run(&["init", "--consensus", "solo"]).code, 0);
    let good = publisher();
    let missing = Home::new();
    let doing = "error making the configuration of followers: ";
    for (home, arguments, text) in [
        (&everybody, &["follow-config"][..], "replace it by the peers that may write"),
        (&solo, &["follow-config"], "init --collaborative"),
        (&good, &["follow-config", "--trust", "nobody"], "invalid peer id"),
        (&good, &["follow-config", "--address", "a.example:9096"], "must begin with /"),
        (&good, &["follow-config", "--address", "/dns4/a.example"], "a port"),
        (&good, &["follow-config", "--address", PEER_A], "do not trust"),
        (&good, &["follow-config", "--name", "../x"], "letters"),
    ] {
        let ran = home.run(arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(ran.stderr.contains(doing) && ran.stderr.contains(text), "{arguments:?}: {}", ran.stderr);
    }
    let ran = missing.run(&["follow-config"]);
    assert!(ran.code == 1 && ran.stderr.contains("error loading configurations: open "), "{}", ran.stderr);
    assert!(!missing.config.exists());

    // Somebody insists: done, and said what it means.
    let address = "/dns4/a.example/tcp/1";
    let insisting =
        ["follow-config", "--trust", id_in(PEER_A), "--trust", id_in(PEER_B), "--address", address];
    let ran = everybody.run(&insisting);
    assert!(ran.stderr.contains("WARNING: this peer itself takes changes from everybody"), "{}", ran.stderr);
    let mut trusted = [id(&everybody), id_in(PEER_A).to_owned(), id_in(PEER_B).to_owned()];
    trusted.sort_unstable();
    assert_eq!(documents(&ran)["consensus"]["crdt"]["trusted_peers"], json!(trusted));
}

/// A publisher that runs, and where the configuration of its followers is served.
struct Published {
    peer: Running,
    ipfs: Ipfs,
    port: u16,
    url: String,
    _home: Home,
}

impl Published {
    fn start() -> Self {
        let (home, ipfs) = (publisher(), Ipfs::start());
        home.change_service_json(|file| {
            file["cluster"]["monitor_ping_interval"] = json!("1s");
            file["cluster"]["mdns_interval"] = json!("0s");
            file["consensus"]["crdt"]["rebroadcast_interval"] = json!("3s");
        });
        let listen = format!("/ip4/127.0.0.1/tcp/{}", free_port());
        let variables = [("CLUSTER_LISTENMULTIADDRESS", listen.as_str())];
        let mut peer = start(&home, &ipfs.address, &[], &variables).ready();
        let port = peer.api_port();
        // While it runs.
        let ran = home.run_with(&["follow-config"], &variables, "");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let url = Server::of(&ran.stdout).service_json();
        Self { peer, ipfs, port, url, _home: home }
    }

    /// The answer of its API, which has to be a good one.
    fn ask(&self, method: &str, path: &str) -> String {
        let answer = http::ask(self.port, method, path);
        assert!(
            answer.split(' ').nth(1).is_some_and(|code| code.starts_with('2')),
            "{method} {path}: {answer}"
        );
        answer
    }

    fn pin(&self, follower: &Ipfs, content: &str) -> Cid {
        let cid = self.ipfs.daemon.add_sample(content.to_owned());
        assert_eq!(follower.daemon.add_sample(content.to_owned()), cid);
        self.ask("POST", &format!("/pins/{cid}"));
        cid
    }

    fn unpin(&self, cid: &Cid) {
        self.ask("DELETE", &format!("/pins/{cid}"));
    }
}

#[test]
fn a_follower_made_from_it_follows_the_publisher_also_after_a_restart() {
    let mut published = Published::start();
    let home = pointing_to(&published.url);
    // As it is read, with nothing to say about it.
    let (config, warnings) =
        PeerConfig::load(Folder::locate(Some(&home.config)).unwrap(), &|_| None).unwrap();
    assert_eq!(warnings, []);
    assert!(config.cluster.follower_mode && config.restapi.is_none() && config.cluster.secret.is_set());
    let ConsensusSection::Crdt(crdt) = &config.consensus else { unreachable!() };
    assert_eq!(crdt.trusted_peers.len(), 1);

    let ipfs = Ipfs::start();
    let mut follower = start(&home, &ipfs.address, &[], &[]).ready();
    let first = published.pin(&ipfs, "first");
    wait_until("the follower pins what is published", || ipfs.is_pinned(&first));
    let own = id(&home);
    wait_until("the publisher sees it, and what it has", || {
        let status = published.ask("GET", &format!("/pins/{first}"));
        let (_, body) = status.split_once("\r\n\r\n").unwrap();
        let status: Value = serde_json::from_str(body).unwrap();
        status["peer_map"][&own]["status"] == "pinned"
    });
    published.unpin(&first);
    wait_until("the follower lets go of it", || !ipfs.is_pinned(&first));

    assert_eq!(follower.stop(), 0);
    let second = published.pin(&ipfs, "second");
    let _follower = start(&home, &ipfs.address, &[], &[]).ready();
    wait_until("it goes on where it was", || ipfs.is_pinned(&second));
    assert!(!ipfs.is_pinned(&first));
    assert_eq!(published.peer.stop(), 0);
}

/// The reference's `ipfs-cluster-follow`; none after saying so.
fn go_follow() -> Option<PathBuf> {
    let program = std::env::var_os(GO_VARIABLE).map(|folder| Path::new(&folder).join("ipfs-cluster-follow"));
    let program = program.filter(|program| program.is_file());
    if program.is_none() {
        eprintln!("skipped: no ipfs-cluster-follow of the reference in the folder that {GO_VARIABLE} names");
    }
    program
}

/// Ends with the test.
struct Go(Child);

impl Drop for Go {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_follower_of_the_reference_follows_it_too() {
    let Some(program) = go_follow() else { return };
    let (published, ipfs) = (Published::start(), Ipfs::start());
    let folder = tempfile::tempdir().unwrap();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&program);
        command.arg("--config").arg(folder.path()).arg("ours").args(arguments).env_clear();
        command.env("HOME", folder.path()).env("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", &ipfs.address);
        command.env("CLUSTER_LISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/0").stdin(Stdio::null());
        command
    };
    let said = |arguments: &[&str]| {
        let output = command(arguments).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
        text
    };
    assert!(said(&["init", &published.url]).contains("follower peer initialized"));
    let info = said(&["info"]);
    assert!(info.contains(&format!("Config source URL: Available ({})", published.url)), "{info}");
    assert!(info.contains("IPFS peer online: true"), "{info}");

    let first = published.pin(&ipfs, "first");
    for round in ["at first", "again"] {
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut running = command(&["run"]);
        let mut running = Go(running.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        wait_until(&format!("it runs {round}"), || {
            assert!(
                running.0.try_wait().unwrap().is_none(),
                "{}",
                fs::read_to_string(folder.path().join("log")).unwrap()
            );
            said(&["info"]).contains("Cluster Peer online: true")
        });
        wait_until(&format!("{first} is pinned {round}"), || ipfs.is_pinned(&first));
        assert!(said(&["list"]).contains(&first.to_string()));
        let second = published.pin(&ipfs, round);
        wait_until(&format!("{second} is pinned {round}"), || ipfs.is_pinned(&second));
        published.unpin(&second);
        wait_until(&format!("{second} is unpinned {round}"), || !ipfs.is_pinned(&second));
        let status = Command::new("kill").args(["-TERM", &running.0.id().to_string()]).status();
        assert!(status.unwrap().success());
        wait_until("it ends", || running.0.try_wait().unwrap().is_some());
    }
}
