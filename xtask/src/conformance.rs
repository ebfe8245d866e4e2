//! Did every case of the conformance suites run against the parts of an outsider?
//!
//! One macro line makes two tests of each case of a suite, `name::direct::case` and `name::forwarded::case`. A line that
//! somebody took out would go unnoticed: fewer tests, all green. So the tests are counted, against what the suites say
//! of themselves.

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

/// The modules that the macro makes inside the one it is given the name of.
const VARIANTS: [&str; 2] = ["direct", "forwarded"];

/// The name given to the macro says which suite it is: the suite's own, or one that begins or ends with it
/// (`storage`, `my_storage`, `storage_on_disk`). Each such module has to have all cases, in both variants.
fn complaints(cases: &BTreeMap<&str, usize>, ran: &BTreeSet<&str>) -> Vec<String> {
    let mut modules: BTreeMap<&str, [usize; VARIANTS.len()]> = BTreeMap::new();
    for (path, _case) in ran.iter().filter_map(|test| test.rsplit_once("::")) {
        let Some((module, variant)) = path.rsplit_once("::") else { continue };
        if let Some(variant) = VARIANTS.iter().position(|name| *name == variant) {
            modules.entry(module).or_default()[variant] += 1;
        }
    }
    let mut complaints = Vec::new();
    for (suite, count) in cases {
        let mut is_run = false;
        for (module, tests) in modules.iter().filter(|(module, _)| is_for(module, suite)) {
            is_run = true;
            for (variant, tests) in VARIANTS.iter().zip(tests).filter(|(_, tests)| *tests < count) {
                complaints.push(format!(
                    "{module}::{variant} ran {tests} of the {count} cases of the suite {suite}"
                ));
            }
        }
        if !is_run {
            complaints.push(format!("no module named for the suite {suite} ran any of its {count} cases"));
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

    const ALL: &str = "storage::direct::a: test\nstorage::direct::b: test\nstorage::forwarded::a: test\n\
                       storage::forwarded::b: test\ntests::my_allocator::direct::a: test\n\
                       tests::my_allocator::forwarded::a: test\nother: test\nstorage::helper: test\n\
                       storage::direct::c: benchmark\n\n";

    fn check(cases_text: &str, all: &str, ignored: &str) -> Vec<String> {
        complaints(&cases(cases_text).unwrap(), &ran(all, ignored))
    }

    #[test]
    fn as_many_tests_as_cases_are_enough() {
        assert_eq!(check("storage 2\nallocator 1\n", ALL, ""), Vec::<String>::new());
    }

    #[test]
    fn a_case_without_a_test_is_found() {
        let all = ALL.replace("storage::forwarded::b: test\n", "");
        let expected = ["storage::forwarded ran 1 of the 2 cases of the suite storage"];
        assert_eq!(check("storage 2\n", &all, ""), expected);
        assert_eq!(check("storage 3\n", ALL, "").len(), 2);
    }

    #[test]
    fn a_suite_that_nobody_runs_is_found() {
        let expected = ["no module named for the suite connector ran any of its 7 cases"];
        assert_eq!(check("connector 7\n", ALL, ""), expected);
    }

    #[test]
    fn an_ignored_test_did_not_run() {
        let expected = ["storage::direct ran 1 of the 2 cases of the suite storage"];
        assert_eq!(check("storage 2\n", ALL, "storage::direct::b: test\n"), expected);
    }

    #[test]
    fn every_module_of_a_suite_needs_all_cases() {
        let all = format!("{ALL}storage_on_disk::direct::a: test\n");
        assert_eq!(check("storage 2\n", &all, "").len(), 2);
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
