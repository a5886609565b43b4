//! `cargo run --example attach_cost` shows what it costs to change what a device is on.

use std::io::{self, Write};
use std::process::ExitCode;

use tests::cost::{self, Failure};

const USAGE: &str = "usage: attach_cost [--csv | --help]";

const HELP: &str = "\
Shows what it costs to change what a device is on: for every transition of one table entry, and for
whole attaches through the core and the driver, with stores of 64 and of 128 bits, the plan, the
stores, the commands, the blocking waits for the hardware, and whether a device notices, or why. All
of that is found and counted here and now, on a model of the hardware; beside it stands what Linux 6.12
takes, as it was measured.

  --csv   one line for each measurement (devices of 1, 4 and 16 streams), with a header
  --help  this";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let text = match arguments[..] {
        [] => show(false),
        ["--csv"] => show(true),
        ["--help"] => Ok(format!("{USAGE}\n\n{HELP}\n")),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match text.and_then(|text| print(&text)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("attach_cost: {failure}");
            ExitCode::FAILURE
        }
    }
}

/// Prints it, as far as somebody reads it.
fn print(text: &str) -> Result<(), Failure> {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

fn show(csv: bool) -> Result<String, Failure> {
    let (transitions, attaches) = (cost::transitions()?, cost::attaches()?);
    Ok(match csv {
        true => cost::csv(&[transitions, attaches].concat()),
        false => cost::table(&transitions, &attaches),
    })
}
