//! `cargo run --example mutate` breaks one rule at a time in a copy of the workspace and shows which
//! test notices. It fails where none does, or where a mutation fits no line of the code any more.
//!
//! `-- NAME...` tries only mutations whose names contain one of the words; `-- --list` names them.

mod ats;
mod contracts;
mod entries;
mod list;
mod mapping;
mod vtd;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use list::Mutation;

/// All of them.
fn mutations() -> impl Iterator<Item = &'static Mutation> {
    let all = [
        list::MUTATIONS,
        entries::MUTATIONS,
        ats::MUTATIONS,
        contracts::MUTATIONS,
        vtd::MUTATIONS,
        mapping::MUTATIONS,
    ];
    all.into_iter().flatten()
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if words.iter().any(|word| word == "--list") {
        mutations().for_each(|mutation| println!("{}", mutation.name));
        return ExitCode::SUCCESS;
    }
    let chosen: Vec<&Mutation> = mutations()
        .filter(|mutation| {
            words.is_empty() || words.iter().any(|word| mutation.name.contains(word))
        })
        .collect();
    match run(&chosen) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(survivors) => {
            eprintln!("{survivors} of {} were not noticed", chosen.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

/// Tries each, and returns how many no test noticed.
fn run(chosen: &[&Mutation]) -> io::Result<usize> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()?;
    let copy = tempfile::Builder::new().prefix("mutate").tempdir()?;
    let tree = copy.path().join("tree");
    copy_tree(&workspace, &tree)?;
    let target = copy.path().join("target");
    if let Verdict::Noticed(by) = tests(&tree, &target)? {
        return Err(io::Error::other(format!("without a mutation, {by} fails")));
    }
    println!("| broken rule | noticed by |\n|---|---|");
    let mut survivors = 0;
    for mutation in chosen {
        let path = tree.join(mutation.file);
        let original = fs::read_to_string(&path)?;
        let mut broken = original.clone();
        for (find, replace) in mutation.edits {
            if broken.matches(find).count() != 1 {
                let name = mutation.name;
                return Err(io::Error::other(format!(
                    "{name}: not once in {path:?}: {find}"
                )));
            }
            broken = broken.replace(find, replace);
        }
        fs::write(&path, broken)?;
        let verdict = tests(&tree, &target)?;
        fs::write(&path, original)?;
        let by = match verdict {
            Verdict::Noticed(by) => by,
            Verdict::Survived => {
                survivors += 1;
                "NOBODY".into()
            }
        };
        println!("| {} | {by} |", mutation.name);
    }
    Ok(survivors)
}

enum Verdict {
    Noticed(String),
    Survived,
}

fn tests(tree: &Path, target: &Path) -> io::Result<Verdict> {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--workspace", "--lib", "--tests"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", target)
        .env("RUST_BACKTRACE", "0")
        // Half of a build is information for debuggers, which nobody asks for here.
        .env("CARGO_PROFILE_DEV_DEBUG", "0")
        .output()?;
    if output.status.success() {
        return Ok(Verdict::Survived);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_suffix(" --- FAILED"))
        .collect();
    let errors = String::from_utf8_lossy(&output.stderr);
    match failed.first() {
        Some(first) if failed.len() == 1 => Ok(Verdict::Noticed(format!("`{first}`"))),
        Some(first) => Ok(Verdict::Noticed(format!(
            "`{first}` and {} more",
            failed.len() - 1
        ))),
        None if errors.contains("could not compile") => Err(io::Error::other(format!(
            "a mutation does not compile:\n{errors}"
        ))),
        None => Ok(Verdict::Noticed("a crash of the tests".into())),
    }
}

/// Copies what is under version control or could be, as far as a build needs it.
fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, name) = (entry.path(), entry.file_name());
        let target: PathBuf = to.join(&name);
        if source.is_dir() {
            if name != "target" && name != ".git" {
                copy_tree(&source, &target)?;
            }
        } else {
            fs::copy(&source, &target)?;
        }
    }
    Ok(())
}
