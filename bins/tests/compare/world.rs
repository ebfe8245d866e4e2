//! One ctl and one daemon, beside a Kubo of their own.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::Daemon;
use crate::kind::Kind;
use crate::kubo::Kubo;
use crate::normal::{self, Printed};
use crate::programs::{IN_SECONDS, Said, free_address};
use crate::script::Step;

/// Where the reference's programs are.
const GO_VARIABLE: &str = "IPFS_CLUSTER_COMPARE_GO";
const SECRET: &str = "636f6d7061726520636f6d7061726520636f6d7061726520636f6d7061726521";

/// The reference's programs; none after saying why.
pub(crate) fn go_programs() -> Option<PathBuf> {
    let folder = std::env::var_os(GO_VARIABLE).map(|folder| std::path::absolute(folder).unwrap());
    if folder.is_none() {
        eprintln!("skipped: no Go programs (run `cargo xtask compare FOLDER`)");
    }
    folder
}

/// What is added.
fn plant(folder: &Path) {
    std::fs::create_dir_all(folder.join("dir/sub")).unwrap();
    for name in ["f1.txt", "f2.txt", "dir/abc.txt", "dir/sub/def.txt", "dir/.hidden"] {
        std::fs::write(folder.join(name), format!("added {name}\n")).unwrap();
    }
    // More than one block.
    let long: String = (0..100_000).map(|number| format!("{number}\n")).collect();
    std::fs::write(folder.join("long"), long).unwrap();
}

/// An id as graphs show it.
fn short(id: &str) -> String {
    format!("{}*{}", &id[..2], &id[id.len() - 6..])
}

/// A ctl, the daemon it asks and the Kubo behind that.
pub(crate) struct World {
    ctl: PathBuf,
    api: String,
    pub(crate) kubo: Kubo,
    /// What is of this world alone, and what stands for it.
    names: Vec<(String, &'static str)>,
    daemon: Daemon,
    folder: TempDir,
}

impl World {
    pub(crate) fn start(ctl: Kind, whose: Kind, consensus: &str, go: &Path) -> Option<Self> {
        let kubo = Kubo::start()?;
        let multiaddr = |port: u16| format!("/ip4/127.0.0.1/tcp/{port}");
        let [api, swarm, proxy, pinning] = [(); 4].map(|()| free_address().port());
        let folder = TempDir::new().unwrap();
        let command = |arguments: &[&str]| {
            let mut command = Command::new(whose.service(go));
            command.arg("--config").arg(folder.path()).args(arguments).stdin(Stdio::null());
            command.envs(IN_SECONDS).envs([
                ("CLUSTER_PEERNAME", "compared".to_owned()),
                ("CLUSTER_SECRET", SECRET.to_owned()),
                ("CLUSTER_LISTENMULTIADDRESS", multiaddr(swarm)),
                ("CLUSTER_RESTAPI_HTTPLISTENMULTIADDRESS", multiaddr(api)),
                ("CLUSTER_IPFSPROXY_LISTENMULTIADDRESS", multiaddr(proxy)),
                ("CLUSTER_PINSVCAPI_HTTPLISTENMULTIADDRESS", multiaddr(pinning)),
                ("CLUSTER_IPFSHTTP_NODEMULTIADDRESS", kubo.multiaddr()),
                ("CLUSTER_MDNSINTERVAL", "0s".to_owned()),
                ("CLUSTER_CRDT_TRUSTEDPEERS", "*".to_owned()),
            ]);
            command
        };
        plant(folder.path());
        let said = Said::from(command(&["init", "--consensus", consensus]).output().unwrap());
        assert_eq!(said.code, 0, "{said:?}");
        let mut daemon = command(&["daemon"]);
        let identity = std::fs::read(folder.path().join("identity.json")).unwrap();
        let identity: Value = serde_json::from_slice(&identity).unwrap();
        let peer = identity["id"].as_str().unwrap().to_owned();
        let ipfs = kubo.run(&["id", "--format=<id>"]);
        let names = vec![
            (peer.clone(), "<peer>"),
            (ipfs.clone(), "<daemon>"),
            (short(&peer), "<short peer>"),
            (short(&ipfs), "<short daemon>"),
            (format!("127.0.0.1:{api}"), "127.0.0.1:<port>"),
            (format!("/tcp/{swarm}"), "/tcp/<port>"),
            (format!("127.0.0.1:{}", kubo.api.port()), "127.0.0.1:<port>"),
        ];
        let mut world = Self {
            ctl: ctl.ctl(go),
            api: multiaddr(api),
            kubo,
            names,
            daemon: Daemon::new("one that is compared", folder.path()),
            folder,
        };
        // And knows of room for pins.
        world.daemon.start(&mut daemon, || {
            ["ping", "freespace", "pinqueue", "tag:group"].iter().all(|metric| {
                let said = call(
                    &world.ctl,
                    &world.api,
                    world.folder.path(),
                    &["--enc=json", "health", "metrics", metric],
                );
                said.code == 0 && said.out.contains("received_at")
            })
        });
        Some(world)
    }

    pub(crate) fn ctl<S: AsRef<str>>(&self, arguments: &[S]) -> Said {
        call(&self.ctl, &self.api, self.folder.path(), arguments)
    }

    /// Runs a command, and gives what it printed without what is of this world alone.
    pub(crate) fn run(&self, step: &Step) -> Printed {
        let arguments: Vec<_> = step.words.iter().map(|word| self.own(word)).collect();
        normal::printed(self.ctl(&arguments), &self.names, step.is_racing())
    }

    /// A word of a command with the names of this world.
    fn own(&self, word: &str) -> String {
        self.names.iter().fold(word.to_owned(), |word, (own, name)| word.replace(name, own))
    }
}

/// Runs this ctl against the peer whose API is here, unless it is told another.
fn call<S: AsRef<str>>(program: &Path, api: &str, folder: &Path, arguments: &[S]) -> Said {
    let mut command = Command::new(program);
    // Neither proxies nor credentials of whoever runs this.
    command.env_clear().stdin(Stdio::null()).current_dir(folder);
    if !arguments.iter().any(|argument| argument.as_ref().starts_with("--host")) {
        command.args(["--host", api]);
    }
    command.args(arguments.iter().map(AsRef::as_ref));
    command.output().unwrap().into()
}
