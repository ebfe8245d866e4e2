//! The log: its form, its levels, where it goes.

use super::*;

/// A command that logs one line, from the program itself.
const EXPORT: [&str; 2] = ["state", "export"];
const SAID: &str = "state successfully exported";

#[test]
fn a_line_is_as_that_of_the_reference() {
    let home = Home::initialized();
    let ran = home.run(&EXPORT);
    let line = ran.stderr.lines().last().unwrap();
    let parts: Vec<&str> = line.split('\t').collect();
    let [time, level, facility, caller, message] = parts[..] else { panic!("{line:?}") };
    assert_eq!((level, facility, message), ("INFO", "service", SAID));
    let shape: String = time.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z");
    assert!(caller.starts_with("ipfs-cluster-service/state.rs:"), "{caller}");
}

#[test]
fn levels_come_from_the_flag_then_its_variable_then_that_of_the_logger() {
    let home = Home::initialized();
    let says = |flags: &[&str], variables: &[(&str, &str)]| {
        let arguments: Vec<&str> = flags.iter().chain(&EXPORT).copied().collect();
        let ran = home.run_with(&arguments, variables, "");
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        ran.stderr.contains(SAID)
    };
    assert!(says(&[], &[]));
    assert!(!says(&["-l", "error"], &[]));
    assert!(!says(&["-l", "service:warn"], &[]));
    assert!(says(&["-l", "error,service:info"], &[]));
    assert!(says(&["-d", "-l", "error"], &[]), "everything");
    assert!(!says(&[], &[("IPFS_CLUSTER_LOG_LEVEL", "error")]));
    assert!(says(&["-l", "info"], &[("IPFS_CLUSTER_LOG_LEVEL", "error")]));
    assert!(!says(&[], &[("GOLOG_LOG_LEVEL", "error")]));
    assert!(says(&[], &[("GOLOG_LOG_LEVEL", "error,service=info")]));
    assert!(says(&["-l", "info"], &[("GOLOG_LOG_LEVEL", "error")]));

    let ran = home.run_with(&EXPORT, &[("IPFS_CLUSTER_LOG_LEVEL", "a:b:c")], "");
    assert_eq!(ran.code, 1);
    let text = "log level not in expected format \"identifier:loglevel\" or \"loglevel\"\n";
    assert!(ran.stderr.ends_with(text), "{}", ran.stderr);
    let ran = home.run_with(&EXPORT, &[("GOLOG_LOG_LEVEL", "loud")], "");
    assert_eq!(ran.code, 0);
    assert!(ran.stderr.starts_with("error setting log level \"loud\": "), "{}", ran.stderr);
}

#[test]
fn forms_are_plain_coloured_and_json() {
    let home = Home::initialized();
    let line = |form: &str, labels: &str| {
        let variables = [("GOLOG_LOG_FMT", form), ("GOLOG_LOG_LABELS", labels)];
        home.run_with(&EXPORT, &variables, "").stderr.lines().last().unwrap().to_owned()
    };
    assert!(line("nocolor", "").contains("\tINFO\tservice\t"));
    assert!(line("color", "").contains("\t\u{1b}[34mINFO\u{1b}[0m\tservice\t"));
    let text = line("json", "dc=eu");
    assert!(text.starts_with("{\"level\":\"info\",\"ts\":\"20"), "{text}");
    let json: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["logger"], &json["msg"], &json["dc"]), (&json!("service"), &json!(SAID), &json!("eu")));
    let ran = home.run_with(&EXPORT, &[("GOLOG_LOG_FMT", "xml")], "");
    assert!(ran.stderr.starts_with("ignoring unrecognized log format 'xml'\n"), "{}", ran.stderr);
}

#[test]
fn lines_go_to_a_file_if_one_is_named_and_to_what_else_is_named_with_it() {
    let home = Home::initialized();
    let file = home.display("peer.log");
    let ran = home.run_with(&EXPORT, &[("GOLOG_FILE", &file)], "");
    assert_eq!((ran.code, ran.stderr.as_str()), (0, ""));
    assert_eq!(home.read("peer.log").matches(SAID).count(), 1);
    let ran = home.run_with(&EXPORT, &[("GOLOG_FILE", &file), ("GOLOG_OUTPUT", "stderr+file")], "");
    assert!(ran.stderr.contains(SAID));
    assert_eq!(home.read("peer.log").matches(SAID).count(), 2, "it is added to");
    let ran = home.run_with(&EXPORT, &[("GOLOG_OUTPUT", "stdout")], "");
    assert!(ran.stdout.contains(SAID) && ran.stderr.is_empty());
    let ran = home.run_with(&EXPORT, &[("GOLOG_FILE", "/no/such/folder/x")], "");
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("/no/such/folder/x"), "{}", ran.stderr);
}
