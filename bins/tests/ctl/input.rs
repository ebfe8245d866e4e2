//! The command line: what is refused, what it says of itself, and flags that change every request.

use crate::server::{Server, closed_port, document, listing};
use crate::{CID, ask, ctl, run, status_of};

#[test]
fn bad_input_is_named_on_stderr_before_anybody_is_asked() {
    let filters = "error, queued, cluster_error, pin_error, unpin_error, pinned, pinning, unpinning, unpinned, \
                   remote, pin_queued, unpin_queued, sharded, unexpectedly_unpinned";
    let cases: &[(&str, String, i32)] = &[
        ("pin ls notacid", "error parsing cid: invalid cid: selected encoding not supported".into(), 1),
        ("status b", "error parsing cid: invalid cid: cid too short".into(), 1),
        ("recover zzz", "error parsing cid: invalid cid: ".into(), 1),
        ("sync notacid", "error parsing cid: invalid cid: selected encoding not supported".into(), 1),
        (
            "pin rm notacid",
            "error : invalid path \"/ipfs/notacid\": invalid cid: selected encoding not supported".into(),
            1,
        ),
        ("pin rm", "error : invalid path \"/ipfs/\": path does not have enough components".into(), 1),
        ("pin add /foo/bar", "error : invalid path \"/foo/bar\": unknown namespace: \"foo\", expected ipfs".into(), 1),
        ("pin update", "error parsing from Cid: invalid cid: cid too short".into(), 1),
        ("pin add --expire-in xyz x", "error parsing expire-in: time: invalid duration \"xyz\"".into(), 1),
        (
            "pin add --mode weird x",
            "error parsing mode: unknown pin mode \"weird\", expected recursive or direct\n".into(),
            1,
        ),
        (
            "status --filter bogus",
            format!("error parsing filter flag: invalid filter value \"bogus\", expected a comma list of {filters}\n"),
            1,
        ),
        (
            "pin ls --filter pin,bogus",
            "error parsing filter flag: invalid filter value \"bogus\", expected a comma list of all, pin, meta-pin, \
             clusterdag-pin, shard-pin\n"
                .into(),
            1,
        ),
        ("watch --after x", "error parsing after: \"x\" is no cursor of an event\n".into(), 1),
        (
            "watch --kind pinned --kind resync",
            "error parsing kind flag: unknown kind of events \"resync\", expected a comma list of pinned,".into(),
            1,
        ),
        ("watch zzz", "error parsing cid: invalid cid: ".into(), 1),
        ("pin ls --created-after x", "error parsing created-after: parsing time \"x\": expected RFC 3339".into(), 1),
        ("pin ls --metadata x", "error parsing metadata: metadata were not in the format key=value\n".into(), 1),
        ("status --peer bad", "error parsing peer ID: invalid peer id \"bad\": ".into(), 1),
        (
            "pin ls --name x QmVQxMs1yg5BjdRbDGFcFLRC6ATpfAz1AFFwm9TyMahb9o",
            "error : flags that find pins cannot stand beside a CID\n".into(),
            1,
        ),
        ("peers rm bad", "error parsing peer ID: invalid peer id \"bad\": ".into(), 1),
        ("health metrics ..", "error : \"..\" is not the name of a metric\n".into(), 1),
        ("--enc=xml id", "error : unsupported encoding\n".into(), 1),
        ("--secret zz id", "error parsing secret: encoding/hex: invalid byte: U+007A 'z'\n".into(), 1),
        (
            "--host /ip4/bad/tcp/1 id",
            "error parsing host multiaddress: failed to parse multiaddr \"/ip4/bad/tcp/1\": ".into(),
            1,
        ),
        (
            "--host= id",
            "error parsing host multiaddress: failed to parse multiaddr \"\": empty multiaddr\n".into(),
            1,
        ),
        (
            "--secret abab --host /dnsaddr/example.com id",
            "error creating API client: length of ProtectorKey should be 32\n".into(),
            1,
        ),
        ("--timeout soon id", "error: invalid value 'soon' for '--timeout".into(), 1),
        ("pin add --wait-timeout 5 x", "error: invalid value '5' for '--wait-timeout".into(), 1),
        ("id more", "error: unexpected argument 'more' found".into(), 1),
        ("--bogus id", "error: unexpected argument '--bogus' found".into(), 1),
        ("bogus", "No help topic for 'bogus'\n".into(), 3),
        ("pin bogus", "No help topic for 'bogus'\n".into(), 3),
        ("help bogus", "No help topic for 'bogus'\n".into(), 3),
        ("add --wait-timeout 5 x", "error: invalid value '5' for '--wait-timeout".into(), 1),
        ("add --cid-version x x", "error: invalid value 'x' for '--cid-version".into(), 1),
        ("add http://", "error : error parsing path: ".into(), 1),
        ("add --expire-in xyz x", "error parsing expire-in: time: invalid duration \"xyz\"".into(), 1),
    ];
    for (line, stderr, exit_code) in cases {
        let ran = run(ctl().args(line.split(' ')));
        assert!(ran.stderr.starts_with(stderr.as_str()), "{line}: {ran:?}");
        assert_eq!((ran.stdout.as_str(), ran.exit_code), ("", Some(*exit_code)), "{line}");
    }
}

#[test]
fn of_a_flag_that_is_given_twice_the_last_one_counts() {
    let server = Server::answering(vec![
        document(200, "{\"version\":\"1.1.6\"}"),
        listing(&[&status_of("pinned")], &[""]),
    ]);
    let closed = format!("/ip4/127.0.0.1/tcp/{}", closed_port());
    let twice = ["--host", &closed, "--host", &server.host(), "--enc", "xml", "--encoding=json"];
    let ran = run(ctl().args(twice).arg("version"));
    assert_eq!(
        (ran.stdout.as_str(), ran.exit_code),
        ("{\n    \"version\": \"1.1.6\"\n}\n", Some(0)),
        "{ran:?}"
    );
    let ran = ask(&server, &["status", "--local", "--filter", "pinned", "--local", "--filter", "error"]);
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    let asked = server.request_lines().pop().unwrap();
    assert_eq!(asked, "GET /pins?local=true&filter=error&cids=");
    let two = run(ctl().args(["pin", "ls", CID, CID]));
    assert!(two.stderr.starts_with("error: unexpected argument "), "{two:?}");
}

#[test]
fn credentials_come_from_the_flag_or_the_environment() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}"); 2]);
    let ran = ask(&server, &["--basic-auth", "user:pass:word", "--force-http", "version"]);
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    let ran = run(ctl().env("CLUSTER_CREDENTIALS", "user:pass:word").args([
        "-f",
        "--host",
        &server.host(),
        "version",
    ]));
    assert_eq!(ran.exit_code, Some(0), "{ran:?}");
    for head in server.requests() {
        assert!(head.to_lowercase().contains("\r\nauthorization: basic dxnlcjpwyxnzondvcmq=\r\n"), "{head}");
    }
    let help = run(ctl().env("CLUSTER_CREDENTIALS", "user:pass:word").arg("--help"));
    assert!(!help.stdout.contains("pass:word") && help.stdout.contains("CLUSTER_CREDENTIALS"));
}

#[test]
fn debug_tells_on_stderr_what_is_asked() {
    let server = Server::answering(vec![document(200, "{\"version\":\"1.1.6\"}")]);
    let ran = ask(&server, &["--debug", "version"]);
    assert_eq!(ran.stdout, "1.1.6\n");
    assert!(ran.stderr.contains("/version"), "{}", ran.stderr);
}

#[test]
fn help_version_and_commands_are_printed_on_stdout() {
    let version = run(ctl().arg("-v"));
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(version.stdout, format!("ipfs-cluster-ctl version 1.1.6 (ipfs-cluster for Rust {own})\n"));
    for args in [&[][..], &["--help"], &["-h"], &["help"], &["--enc", "json"], &["-help"]] {
        let ran = run(ctl().args(args));
        assert!(ran.stdout.contains("Usage: ipfs-cluster-ctl [OPTIONS] [COMMAND]"), "{args:?} {ran:?}");
        assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)));
    }
    for args in [&["pin"][..], &["pin", "--help"], &["help", "pin"], &["pin", "add", "-h"]] {
        let ran = run(ctl().args(args));
        assert!(ran.stdout.contains("Usage: ipfs-cluster-ctl pin "), "{args:?} {ran:?}");
        assert_eq!((ran.stderr.as_str(), ran.exit_code), ("", Some(0)));
    }
    let commands = run(ctl().arg("commands"));
    let wanted = [
        "id",
        "peers",
        "peers ls",
        "peers rm",
        "add",
        "pin",
        "pin add",
        "pin rm",
        "pin update",
        "pin ls",
        "status",
        "sync",
        "recover",
        "watch",
        "version",
        "health",
        "health graph",
        "health metrics",
        "health alerts",
        "health bandwidth",
        "ipfs",
        "ipfs gc",
        "leases",
        "leases ls",
        "leases rm",
        "completion",
        "commands",
        "man",
        "help",
    ];
    let wanted: String = wanted.iter().map(|command| format!("ipfs-cluster-ctl {command}\n")).collect();
    assert_eq!(commands.stdout, wanted);
}
