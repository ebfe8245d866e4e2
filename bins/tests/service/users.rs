//! Who may use the REST API.

use super::*;

#[test]
fn users_are_added_changed_listed_and_removed_and_nothing_else_of_the_file_changes() {
    let home = Home::initialized();
    let before = home.read("service.json");
    let add = |name: &str, password: &str| home.run_with(&["users", "add", name], &[], password);
    let hash = |name: &str| home.service_json()["api"]["restapi"]["basic_auth_credentials"][name].clone();

    let ran = add("operator", "correct horse\n");
    assert_eq!((ran.code, ran.stdout.as_str()), (0, ""));
    assert_eq!(ran.stderr, "user operator added; it counts from the next start of the daemon\n");
    let first = hash("operator");
    assert!(first.as_str().unwrap().starts_with("$argon2id$"), "{first}");
    assert!(!home.read("service.json").contains("correct horse"));
    assert_eq!(mode(&home.path("service.json")), 0o600);

    assert_eq!(add("reader", "other").code, 0, "a last line needs no end");
    let ran = add("operator", "correct horse\n");
    assert!(ran.stderr.starts_with("password of user operator changed"), "{}", ran.stderr);
    assert_ne!(hash("operator"), first);
    assert_eq!(home.run(&["users", "ls"]).stdout, "operator\nreader\n");

    assert_eq!(home.run(&["users", "rm", "reader"]).code, 0);
    let ran = home.run(&["users", "rm", "reader"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (1, "error removing a user: there is no user \"reader\"\n"));
    let ran = home.run(&["users", "rm", "operator"]);
    assert!(ran.stderr.contains("there are no users left"), "{}", ran.stderr);
    assert_eq!(home.read("service.json"), before);
    assert!(!home.path(LOCK_FILE).exists());
}

#[test]
fn what_cannot_be_a_user_is_refused_and_the_file_stays() {
    let home = Home::initialized();
    let before = home.read("service.json");
    for (name, password) in
        [("a:b", "x\n"), ("a,b", "x\n"), ("", "x\n"), ("a\u{7}", "x\n"), ("a", ""), ("a", "\n")]
    {
        let ran = home.run_with(&["users", "add", name], &[], password);
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{name:?}");
        assert!(ran.stderr.starts_with("error adding a user: "), "{name:?}: {}", ran.stderr);
    }
    let ran = home.run_with(&["users", "add", "a"], &[], &"x".repeat(5000));
    assert!(ran.code == 1 && ran.stderr.starts_with("error "), "{}", ran.stderr);
    for arguments in [vec!["users", "add"], vec!["users", "add", "a", "secret"], vec!["users", "rm"]] {
        assert_eq!(home.run(&arguments).code, 1, "a password is no argument: {arguments:?}");
    }
    assert_eq!(home.read("service.json"), before);
    let elsewhere = Home::new();
    elsewhere.run(&["init", "http://me:hunter2@127.0.0.1:1/service.json"]);
    let ran = elsewhere.run(&["users", "ls"]);
    let said = "the users are in the configuration at http://127.0.0.1:1/service.json: change them there\n";
    assert!(ran.code == 1 && ran.stderr.ends_with(said) && !ran.stderr.contains("hunter2"), "{}", ran.stderr);
}

#[test]
fn a_signal_at_the_question_for_a_password_leaves_the_terminal_as_it_was() {
    use std::io::Read as _;

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    use rustix::termios::{LocalModes, tcgetattr};

    let home = Home::initialized();
    let before = home.read("service.json");
    for (signal, code) in [("-INT", 130), ("-TERM", 143)] {
        let screen = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&screen).unwrap();
        unlockpt(&screen).unwrap();
        let name = ptsname(&screen, Vec::new()).unwrap().into_string().unwrap();
        let keyboard = std::fs::File::options().read(true).write(true).open(name).unwrap();
        let is_shown = || tcgetattr(&keyboard).unwrap().local_modes.contains(LocalModes::ECHO);
        assert!(is_shown());
        let mut child = Command::new(env!("CARGO_BIN_EXE_ipfs-cluster-service"))
            .arg("-c")
            .arg(&home.config)
            .args(["users", "add", "operator"])
            .env_clear()
            .stdin(keyboard.try_clone().unwrap())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stderr = child.stderr.take().unwrap();
        let mut question = [0; 10];
        stderr.read_exact(&mut question).unwrap();
        assert_eq!((&question, is_shown()), (b"Password: ", false));
        let killed = Command::new("kill").args([signal, &child.id().to_string()]).status();
        assert!(killed.unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(code));
        assert!(is_shown(), "{signal}");
    }
    assert_eq!(home.read("service.json"), before);
}
