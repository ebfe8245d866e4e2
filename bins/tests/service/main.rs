//! `ipfs-cluster-service` as its users meet it: files, texts and exit codes.

#![cfg(unix)]
#![allow(clippy::unwrap_used)] // A test fails by panicking.

mod etcd;
#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../../../tests/support/etcd.rs"]
mod etcd_server;
mod files;
#[path = "../../../tests/support/go_program.rs"]
mod go_program;
#[allow(dead_code)] // Shared with other tests, which use more of it.
#[path = "../support/http.rs"]
mod http;
#[path = "../support/ipfs.rs"]
mod ipfs;
mod logs;
#[path = "../support/manual.rs"]
mod manual;
#[path = "../support/ports.rs"]
mod ports;
#[allow(dead_code)] // See above.
#[path = "../support/process.rs"]
mod process;
mod publish;
mod raft;
#[allow(dead_code)] // See above.
#[path = "../support/ran.rs"]
mod ran;
mod remote;
mod run;
mod state;
mod users;
#[path = "../support/wait.rs"]
mod wait;

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ipfs_cluster::config::{FolderLock, Identity, LOCK_FILE};
use serde_json::{Value, json};

use ran::Ran;

const PEER_A: &str = "/ip4/192.168.0.129/tcp/9196/p2p/12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW";
const PEER_B: &str = "/ip4/192.168.0.129/tcp/9196/p2p/12D3KooWPwrYNj7VficHw5qYidepMGA85756kYgMdNmRM9A1ZHjN";

/// A home folder with a configuration folder in it that does not exist yet.
struct Home {
    _folder: tempfile::TempDir,
    home: PathBuf,
    config: PathBuf,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_owned();
        Self { config: home.join("peer"), home, _folder: folder }
    }

    /// One that was initialized.
    fn initialized() -> Self {
        let home = Self::new();
        assert_eq!(home.run(&["init"]).code, 0);
        home
    }

    fn run(&self, arguments: &[&str]) -> Ran {
        self.run_with(arguments, &[], "")
    }

    /// Runs a command on the folder. Nothing of this process's environment reaches it.
    fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)], input: &str) -> Ran {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-service"))
            .arg("-c")
            .arg(&self.config)
            .args(arguments)
            .env_clear()
            .env("HOME", &self.home)
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have ended without reading.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    fn path(&self, file: &str) -> PathBuf {
        self.config.join(file)
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.path(file)).unwrap()
    }

    fn service_json(&self) -> Value {
        serde_json::from_str(&self.read("service.json")).unwrap()
    }

    fn change_service_json(&self, change: impl FnOnce(&mut Value)) {
        let mut file = self.service_json();
        change(&mut file);
        fs::write(self.path("service.json"), file.to_string()).unwrap();
    }

    fn display(&self, file: &str) -> String {
        self.path(file).display().to_string()
    }
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn init_writes_three_files_with_their_modes_and_says_so() {
    let home = Home::new();
    let ran = home.run(&["init"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(
        ran.stderr,
        format!(
            "configuration written to {}.\nnew identity written to {}\nnew empty peerstore written to {}.\n",
            home.display("service.json"),
            home.display("identity.json"),
            home.display("peerstore")
        )
    );
    assert_eq!(mode(&home.config), 0o700);
    assert_eq!(mode(&home.path("service.json")), 0o600);
    assert_eq!(mode(&home.path("identity.json")), 0o600);
    assert_eq!(mode(&home.path("peerstore")), 0o644);
    assert_eq!(fs::read_dir(&home.config).unwrap().count(), 3, "no lock and no temporary file is left");
    assert_eq!(home.read("identity.json").len(), 183);

    let text = home.read("service.json");
    assert!(text.starts_with("{\n  \"cluster\": {\n    \"peername\": ") && text.ends_with("\n}"));
    let file = home.service_json();
    assert_eq!(file["cluster"]["secret"].as_str().unwrap().len(), 64);
    assert_eq!(file["consensus"]["crdt"]["trusted_peers"], json!(["*"]));
    assert_eq!(file["api"]["restapi"]["http_listen_multiaddress"], "/ip4/127.0.0.1/tcp/9094");
    assert_eq!(file["api"]["restapi"]["security"], "strict");
    assert!(file["api"].get("ipfsproxy").is_none() && file.get("datastore").is_none());
}

#[test]
fn init_asks_before_it_overwrites() {
    let home = Home::initialized();
    let prompt = "The configuration file will be overwritten. Continue? [y/n]: ";
    let (before, identity) = (home.read("service.json"), home.read("identity.json"));
    for answer in ["n\n", "N\n", "", "\n"] {
        let ran = home.run_with(&["init"], &[], answer);
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, prompt, ""), "{answer:?}");
        assert_eq!(home.read("service.json"), before);
        assert!(!home.path(LOCK_FILE).exists());
    }
    let ran = home.run_with(&["init"], &[], "perhaps\ny\n");
    assert_eq!(ran.code, 0);
    assert_eq!(ran.stdout, format!("{prompt}Please press either 'y' or 'n'\n{prompt}"));
    let after = home.read("service.json");
    assert_ne!(after, before, "there is a new secret");
    assert!(!ran.stderr.contains("identity"), "{}", ran.stderr);

    let ran = home.run(&["init", "--force"]);
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_ne!(home.read("service.json"), after);
    assert_eq!(home.read("identity.json"), identity, "an identity is kept");
}

#[test]
fn init_writes_what_the_environment_says() {
    let home = Home::new();
    let variables = [
        ("CLUSTER_PEERNAME", "envname"),
        ("CLUSTER_SECRET", &"1".repeat(64)),
        ("CLUSTER_REPLICATIONFACTORMIN", "2"),
        ("CLUSTER_REPLICATIONFACTORMAX", "3"),
        ("CLUSTER_CONNECTIONMANAGER_HIGHWATER", "177"),
        ("CLUSTER_PUBSUB_HEARTBEATINTERVAL", "3s"),
        ("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", "/ip4/127.0.0.1/tcp/22001,/ip4/127.0.0.1/tcp/22002"),
        ("CLUSTER_RESTAPI_BASICAUTHCREDENTIALS", "a:b,c:d"),
        ("CLUSTER_TAGS_TAGS", "group:g1,region:eu"),
        ("CLUSTER_BALANCED_ALLOCATEBY", "freespace"),
        ("CLUSTER_CRDT_STORAGE", "redb"),
        ("CLUSTER_ID", "12D3KooWRN8KRjpyg9rsW2w7StbBRGper65psTZm68cjud9KAkaW"),
    ];
    let ran = home.run_with(&["init"], &variables, "");
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        format!(
            "configuration written to {}.\nerror applying environment variables to the identity: identity ID does \
             not match the private_key\n",
            home.display("service.json")
        )
    );
    let file = home.service_json();
    assert_eq!(file["cluster"]["peername"], "envname");
    assert_eq!(file["cluster"]["secret"], "1".repeat(64));
    assert_eq!(file["cluster"]["replication_factor_max"], 3);
    assert_eq!(
        file["cluster"]["connection_manager"],
        json!({"high_water": 177, "low_water": 100, "grace_period": "2m0s"})
    );
    assert_eq!(file["cluster"]["pubsub"]["heartbeat_interval"], "3s");
    assert_eq!(
        file["api"]["restapi"]["http_listen_multiaddress"],
        json!(["/ip4/127.0.0.1/tcp/22001", "/ip4/127.0.0.1/tcp/22002"])
    );
    let users = file["api"]["restapi"]["basic_auth_credentials"].as_object().unwrap();
    assert_eq!(users.keys().collect::<Vec<_>>(), ["a", "c"]);
    assert!(users.values().all(|hash| hash.as_str().unwrap().starts_with("$argon2id$")));
    assert_eq!(file["informer"]["tags"]["tags"], json!({"group": "g1", "region": "eu"}));
    assert_eq!(file["allocator"]["balanced"]["allocate_by"], json!(["freespace"]));
    assert_eq!(file["consensus"]["crdt"]["storage"], "redb");
}

#[test]
fn init_refuses_bad_values_and_writes_nothing() {
    let variable = |name, value, text: &str| (vec!["init"], vec![(name, value)], text.to_owned());
    let flag = |arguments: &[&'static str], text: &str| (arguments.to_vec(), vec![], text.to_owned());
    let environment = "error applying environment variables to configuration: ";
    for (arguments, variables, text) in [
        flag(
            &["init", "--consensus", "zzz"],
            "error choosing consensus: flag value must be set to 'raft' or 'crdt', to 'etcd' for peers that agree \
             through one, or to 'solo' for a cluster of one peer",
        ),
        flag(
            &["init", "--datastore", "zzz"],
            "error choosing datastore: flag value must be set to 'leveldb', 'badger', 'badger3' or 'pebble', or to \
             'fjall' or 'redb', which this peer uses",
        ),
        flag(
            &["init", "--peers", "badaddr"],
            "error parsing peer multiaddress: badaddr: failed to parse multiaddr \"badaddr\": must begin with /",
        ),
        flag(
            &["init", "--peers", "/ip4/1.2.3.4/tcp/9096"],
            "error getting AddrInfos from peer multiaddresses: invalid p2p multiaddr: /ip4/1.2.3.4/tcp/9096 has no \
             /p2p/<peer id>",
        ),
        variable(
            "CLUSTER_SECRET",
            "zz",
            &format!(
                "{environment}error loading cluster secret from config: encoding/hex: invalid byte: U+007A 'z'"
            ),
        ),
        variable(
            "CLUSTER_SECRET",
            "abcd",
            &format!(
                "{environment}error loading cluster secret from config: input secret is 2 bytes, cluster secret \
                 should be 32"
            ),
        ),
        variable(
            "CLUSTER_CONNECTIONMANAGER_HIGHWATER",
            "77",
            &format!("{environment}cluster.connection_manager.low_water is greater than high_water"),
        ),
        variable(
            "CLUSTER_STATELESS_CONCURRENTPINS",
            "many",
            &format!(
                "{environment}error parsing pin_tracker.stateless.concurrent_pins: \"many\" is not a whole number in \
                 range (from CLUSTER_STATELESS_CONCURRENTPINS)"
            ),
        ),
    ] {
        let home = Home::new();
        let ran = home.run_with(&arguments, &variables, "");
        assert_eq!((ran.code, ran.stderr), (1, format!("{text}\n")), "{arguments:?} {variables:?}");
        assert_eq!(ran.stdout, "");
        assert!(!home.config.exists());
    }
}

#[test]
fn init_puts_peers_into_the_peerstore_in_their_order() {
    let home = Home::new();
    let ran = home.run(&["init", "--peers", &format!("{PEER_B}, {PEER_A},{PEER_B}")]);
    assert_eq!(ran.code, 0);
    let said = format!("peerstore written to {} with 2 entries.\n", home.display("peerstore"));
    assert!(ran.stderr.ends_with(&said), "{}", ran.stderr);
    assert_eq!(home.read("peerstore"), format!("{PEER_B}\n{PEER_A}\n"));
    // And trusts them, and nobody else.
    let trusted = home.service_json()["consensus"]["crdt"]["trusted_peers"].clone();
    let id = |address: &str| address.rsplit('/').next().unwrap().to_owned();
    let mut ids = [id(PEER_A), id(PEER_B)];
    ids.sort_unstable();
    assert_eq!(trusted, json!(ids));
}

#[test]
fn init_makes_a_cluster_of_one_when_asked() {
    let home = Home::new();
    assert_eq!(home.run(&["init", "--consensus", "solo"]).code, 0);
    let file = home.service_json();
    assert_eq!(file["consensus"]["solo"]["storage"], "fjall");
    assert!(file["consensus"].get("crdt").is_none());
}

#[test]
fn init_finds_free_ports_when_asked() {
    let home = Home::new();
    assert_eq!(home.run(&["init", "-randomports=true", "--storage", "redb"]).code, 0);
    let file = home.service_json();
    let text = file.to_string();
    assert!(!text.contains("tcp/9096") && !text.contains("udp/9096") && !text.contains("tcp/9094"), "{text}");
    assert!(text.contains("/quic"));
    assert_eq!(file["consensus"]["crdt"]["storage"], "redb");
}

#[test]
fn init_asks_for_a_secret_when_told_to() {
    let home = Home::new();
    let ran = home.run_with(&["init", "-s"], &[], &format!("{}\n", "ab".repeat(32)));
    assert_eq!((ran.code, ran.stdout.as_str()), (0, "Enter cluster secret (32-byte hex string): "));
    assert_eq!(home.service_json()["cluster"]["secret"], "ab".repeat(32));
    let home = Home::new();
    let ran = home.run_with(&["init", "-s"], &[], "abc\n");
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, "error parsing user-provided secret: encoding/hex: odd length hex string\n");
    assert!(!home.config.exists());
}

#[test]
fn a_second_process_is_kept_out_and_the_lock_leaves_no_file() {
    let home = Home::initialized();
    let lock = FolderLock::acquire(&home.config, "test").unwrap();
    let path = home.display(LOCK_FILE);
    for arguments in [
        vec!["init"],
        vec!["state", "export"],
        vec!["state", "import"],
        vec!["state", "cleanup"],
        vec!["daemon"],
    ] {
        let ran = home.run(&arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        let text = format!(
            "error obtaining execution lock: lock {path}: someone else has the lock. If no other \
             ipfs-cluster-service process is running, remove {path}, or make sure that the config folder is writable \
             for the user running ipfs-cluster-service.\n"
        );
        assert!(ran.stderr.ends_with(&text), "{arguments:?}: {}", ran.stderr);
    }
    assert!(home.path(LOCK_FILE).exists());
    drop(lock);
    assert_eq!(home.run(&["init"]).code, 0);
    assert!(!home.path(LOCK_FILE).exists());
}

#[test]
fn a_record_lock_as_the_reference_takes_it_keeps_us_out_and_its_file_stays() {
    use rustix::fs::{FlockOperation, fcntl_lock};
    let home = Home::initialized();
    let file = fs::File::create(home.path(LOCK_FILE)).unwrap();
    fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    let ran = home.run(&["init", "-f"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("someone else has the lock"), "{}", ran.stderr);
    assert!(home.path(LOCK_FILE).exists());
    drop(file);
    assert_eq!(home.run(&["init", "-f"]).code, 0);
}

#[test]
fn a_folder_without_configuration_is_named_and_stays_empty() {
    for arguments in [vec!["daemon"], vec!["state", "export"], vec!["state", "cleanup", "-f"]] {
        let home = Home::new();
        let ran = home.run(&arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""));
        let text = format!(
            "error loading configurations: open {}: no such file or directory\n",
            home.display("service.json")
        );
        assert!(ran.stderr.ends_with(&text), "{arguments:?}: {}", ran.stderr);
        assert_eq!(fs::read_dir(&home.config).unwrap().count(), 0);
    }
}

#[test]
fn a_wrong_identity_or_consensus_has_the_text_of_the_reference() {
    let home = Home::initialized();
    let other: Value = serde_json::from_str(&Identity::generate().to_json().unwrap()).unwrap();
    let mut identity: Value = serde_json::from_str(&home.read("identity.json")).unwrap();
    identity["id"] = other["id"].clone();
    fs::write(home.path("identity.json"), identity.to_string()).unwrap();
    let ran = home.run(&["state", "export"]);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.stderr,
        format!(
            "error loading configurations: error loading identity from {}: identity ID does not match the \
             private_key\n",
            home.display("identity.json")
        )
    );

    let home = Home::initialized();
    home.change_service_json(|file| file["consensus"] = json!({"crdt": {}, "solo": {}}));
    let ran = home.run(&["state", "export"]);
    assert_eq!(
        (ran.code, ran.stderr.as_str()),
        (1, "error creating state manager: could not determine the consensus component\n")
    );
}

#[test]
fn unknown_keys_are_named_in_one_line_and_unserved_sections_with_what_is_missing() {
    let home = Home::initialized();
    home.change_service_json(|file| {
        file["cluster"]["peer_name"] = json!("x");
        file["informer"]["disk"]["ttl"] = json!("x");
        file["api"]["ipfsproxy"] = json!({"listen_multiaddress": "/ip4/127.0.0.1/tcp/9995", "x": 1});
    });
    let ran = home.run(&["state", "export"]);
    for part in [
        "WARN\tservice\t",
        "are they spelled right? cluster.peer_name, informer.disk.ttl, api.ipfsproxy.x\n",
        "section api.ipfsproxy is kept but not served by this version: nothing listens on /ip4/127.0.0.1/tcp/9995\n",
    ] {
        assert!(ran.stderr.contains(part), "{}", ran.stderr);
    }
    assert_eq!(ran.stderr.matches("\tWARN\t").count(), 2, "{}", ran.stderr);
    let quiet = home.run(&["-l", "error", "state", "export"]);
    assert!(!quiet.stderr.contains("peer_name"));
}

#[test]
fn questions_about_the_state_are_those_of_the_reference() {
    let home = Home::initialized();
    for (command, question) in [
        ("import", "The pinset (state) of this peer will be replaced. Continue? [y/n]: "),
        ("cleanup", "The peer state will be removed.  Existing pins may be lost. Continue? [y/n]: "),
    ] {
        let ran = home.run_with(&["state", command], &[], "n\n");
        assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, question, ""));
    }
    let missing = home.display("missing.json");
    let ran = home.run(&["state", "import", "-f", &missing]);
    assert_eq!(ran.code, 1);
    assert_eq!(ran.stderr, format!("error reading import file: open {missing}: no such file or directory\n"));
    let ran = home.run(&["state", "import", "-f", "--allocs", "x", &missing]);
    assert!(ran.stderr.starts_with("error decoding allocations: invalid peer id \"x\""), "{}", ran.stderr);
}

#[test]
fn id_prints_the_peer_id() {
    let home = Home::initialized();
    let identity = Identity::load(&home.path("identity.json")).unwrap();
    let ran = home.run(&["id"]);
    assert_eq!((ran.code, ran.stdout), (0, format!("{}\n", identity.id())));
    fs::remove_file(home.path("identity.json")).unwrap();
    let ran = home.run(&["id"]);
    assert_eq!(ran.code, 1);
    let path = home.display("identity.json");
    assert_eq!(ran.stderr, format!("error loading identity: open {path}: no such file or directory\n"));
}

#[test]
fn versions_help_and_bad_flags_have_their_exit_codes() {
    let home = Home::new();
    let ran = home.run(&["version"]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (0, "1.1.6\n", ""));
    for flag in ["-v", "--version", "-version"] {
        let ran = home.run(&[flag]);
        assert_eq!(ran.code, 0);
        let expected = format!(
            "ipfs-cluster-service version 1.1.6 (ipfs-cluster for Rust {})\n",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(ran.stdout, expected);
    }
    for (arguments, code) in [
        (vec![], 1),
        (vec!["bogus"], 1),
        (vec!["--help"], 0),
        (vec!["help"], 0),
        (vec!["init", "--help"], 0),
        (vec!["state"], 0),
        (vec!["state", "crdt"], 0),
        (vec!["users"], 0),
    ] {
        let ran = home.run(&arguments);
        assert_eq!((ran.code, ran.stderr.as_str()), (code, ""), "{arguments:?}");
        assert!(ran.stdout.contains("Usage: ipfs-cluster-service"), "{arguments:?}: {}", ran.stdout);
    }
    let ran = home.run(&["state", "bogus"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (3, "No help topic for 'bogus'\n"));
    let ran = home.run(&["state", "crdt", "bogus"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (3, "No help topic for 'bogus'\n"));
    for arguments in [
        vec!["--bogus"],
        vec!["init", "--bogus"],
        vec!["init", "a", "b"],
        vec!["init", "--force=x"],
        vec!["state", "import", "--rmin", "x"],
        vec!["-l", "a:b:c", "version"],
        vec!["-l", "loud", "version"],
        vec!["-l", ":info", "version"],
        vec!["daemon", "--bogus"],
        vec!["daemon", "x"],
        vec!["daemon", "--stats=perhaps"],
        vec!["daemon", "--bootstrap"],
        vec!["daemon", "-j", "x"],
        vec!["daemon", "-j", "/ip4/127.0.0.1/tcp/1,/ip4/x"],
        vec!["init", "--consensus"],
        vec!["init", "--datastore", ""],
        vec!["state", "export", "x"],
        vec!["state", "export", "--file"],
        vec!["state", "import", "a", "b"],
        vec!["state", "import", "--rmax", "99999999999"],
        vec!["state", "cleanup", "--force=2"],
        vec!["state", "crdt", "info", "x"],
        vec!["--config"],
        vec!["version", "x"],
        vec!["id", "--bogus"],
    ] {
        let ran = home.run(&arguments);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{arguments:?}");
        let last = ran.stderr.lines().find(|line| !line.contains("\tINFO\t")).unwrap_or_default();
        assert!(last.starts_with("error"), "{arguments:?}: {}", ran.stderr);
    }
    assert!(!home.config.exists());
}

#[test]
fn the_folder_comes_from_the_flag_the_variable_or_the_home_folder() {
    let home = Home::new();
    let run = |variable: Option<&str>| {
        Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-service"))
            .arg("init")
            .env_clear()
            .env("HOME", &home.home)
            .envs(variable.map(|value| ("IPFS_CLUSTER_PATH", value)))
            .current_dir(&home.home)
            .output()
            .unwrap()
    };
    assert!(run(None).status.success());
    assert!(home.home.join(".ipfs-cluster/service.json").exists());
    assert!(run(Some("relative")).status.success());
    assert!(home.home.join("relative/service.json").exists());
}

#[test]
fn pages_and_completions_have_every_command_and_every_flag() {
    let some = ["", "init", "daemon", "state-import", "state-crdt-mark-dirty", "users-add", "completion"];
    let program = env!("CARGO_BIN_EXE_ipfs-cluster-service");
    manual::check(program, &some);
    let behind_commands: [(&str, &[&str]); 3] = [
        ("st", &["state"]),
        ("users ", &["add", "ls", "rm"]),
        ("state crdt mark-", &["mark-clean", "mark-dirty"]),
    ];
    manual::completes_in_bash(program, &behind_commands);
    manual::can_be_read_by_their_shells(program);
}
