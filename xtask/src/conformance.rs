//! Did every case of the conformance suites run against the parts of an outsider?
//!
//! One macro line makes one test for each case of a suite, `module::case`. A case that is missing from the macro's list,
//! or a line that somebody took out, would go unnoticed: fewer tests, all green. So the tests are counted, against
//! what the suites say of themselves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, bail};

use crate::cargo::{cargo, output};

/// The member whose parts the suites run against.
pub(crate) const PACKAGE: &str = "outside-parts";

/// Its program that prints `suite count`, a line for each suite that the member runs.
const CASES_EXAMPLE: &str = "conformance_cases";

/// Counts the member's tests, after they have passed without a filter: those that are not ignored are those that ran.
pub(crate) fn check() -> Result<()> {
    let printed = output(&mut cargo(["run", "--quiet", "-p", PACKAGE, "--example", CASES_EXAMPLE])?)?;
    let cases = cases(&printed)?;
    let list = ["test", "--quiet", "-p", PACKAGE, "--tests", "--", "--list", "--format", "terse"];
    let all = output(&mut cargo(list)?)?;
    let ignored = output(cargo(list)?.arg("--ignored"))?;
    let ran = ran(&all, &ignored);
    let complaints = complaints(&cases, &ran);
    if !complaints.is_empty() {
        bail!("not every conformance case ran in {PACKAGE}: {}", complaints.join("; "));
    }
    for (suite, count) in &cases {
        eprintln!("{suite}: all {count} cases ran");
    }
    Ok(())
}

/// Reads lines of `suite count`.
fn cases(text: &str) -> Result<BTreeMap<&str, usize>> {
    let mut cases = BTreeMap::new();
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let (suite, count) = line.trim().split_once(' ').with_context(|| {
            format!("{CASES_EXAMPLE} printed {line:?}, expected the name of a suite and its number of cases")
        })?;
        let count: usize = count.trim().parse().with_context(|| {
            format!("{CASES_EXAMPLE} printed {line:?}, where the number of cases is no number")
        })?;
        if count == 0 {
            bail!("{CASES_EXAMPLE} says that the suite {suite} has no cases");
        }
        if cases.insert(suite, count).is_some() {
            bail!("{CASES_EXAMPLE} names the suite {suite} twice");
        }
    }
    if cases.is_empty() {
        bail!("{CASES_EXAMPLE} named no suite");
    }
    Ok(cases)
}

/// The names in a terse list (`name: test`), without those that are ignored.
fn ran<'a>(all: &'a str, ignored: &'a str) -> BTreeSet<&'a str> {
    let names = |list: &'a str| list.lines().filter_map(|line| line.trim().strip_suffix(": test"));
    let ignored: BTreeSet<&str> = names(ignored).collect();
    names(all).filter(|name| !ignored.contains(name)).collect()
}

/// Tests belong to a suite by the name of the module around them: the suite's own, or one that begins or ends with it
/// (`consensus`, `custom_consensus`, `consensus_through_dyn`). Every such module has to have all cases.
fn complaints(cases: &BTreeMap<&str, usize>, ran: &BTreeSet<&str>) -> Vec<String> {
    let mut modules: BTreeMap<&str, usize> = BTreeMap::new();
    for (module, _) in ran.iter().filter_map(|name| name.rsplit_once("::")) {
        *modules.entry(module).or_default() += 1;
    }
    let mut complaints = Vec::new();
    for (suite, count) in cases {
        let mut seen = false;
        for (module, tests) in modules.iter().filter(|(module, _)| is_for(module, suite)) {
            seen = true;
            if tests < count {
                complaints
                    .push(format!("{tests} tests ran in {module}, and the suite {suite} has {count} cases"));
            }
        }
        if !seen {
            complaints.push(format!(
                "no test ran in a module named for the suite {suite}, which has {count} cases"
            ));
        }
    }
    complaints
}

fn is_for(module: &str, suite: &str) -> bool {
    let name = module.rsplit("::").next().unwrap_or(module);
    name == suite
        || name.strip_prefix(suite).is_some_and(|rest| rest.starts_with('_'))
        || name.strip_suffix(suite).is_some_and(|rest| rest.ends_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "consensus::a_logged_pin_is_in_the_state: test\nconsensus::unpin_is_idempotent: test\n\
                       my_allocator::no_peer_twice: test\nother: test\nbench: benchmark\n\n";

    fn check(cases_text: &str, all: &str, ignored: &str) -> Vec<String> {
        complaints(&cases(cases_text).unwrap(), &ran(all, ignored))
    }

    #[test]
    fn as_many_tests_as_cases_are_enough() {
        assert_eq!(check("consensus 2\nallocator 1\n", ALL, ""), Vec::<String>::new());
    }

    #[test]
    fn a_case_without_a_test_is_found() {
        let complaints = check("consensus 3\n", ALL, "");
        assert_eq!(complaints, ["2 tests ran in consensus, and the suite consensus has 3 cases"]);
    }

    #[test]
    fn a_suite_that_nobody_runs_is_found() {
        let complaints = check("connector 7\n", ALL, "");
        assert_eq!(complaints, ["no test ran in a module named for the suite connector, which has 7 cases"]);
    }

    #[test]
    fn an_ignored_test_did_not_run() {
        let complaints = check("consensus 2\n", ALL, "consensus::unpin_is_idempotent: test\n");
        assert_eq!(complaints, ["1 tests ran in consensus, and the suite consensus has 2 cases"]);
    }

    #[test]
    fn every_module_of_a_suite_needs_all_cases() {
        let all = format!("{ALL}tests::consensus_through_dyn::unpin_is_idempotent: test\n");
        assert_eq!(check("consensus 2\n", &all, "").len(), 1);
    }

    #[test]
    fn a_longer_word_is_another_suite() {
        assert!(is_for("state", "state"));
        assert!(is_for("a::my_state", "state"));
        assert!(!is_for("a::mystate", "state"));
        assert!(!is_for("statement", "state"));
        assert!(!is_for("state::other", "state"));
    }

    #[test]
    fn a_list_of_cases_that_says_nothing_is_an_error() {
        for text in ["", "\n", "consensus", "consensus many", "consensus 0", "consensus 1\nconsensus 2"] {
            assert!(cases(text).is_err(), "{text:?}");
        }
    }
}
