use std::process::ExitCode;

fn main() -> ExitCode {
    harden_portsentry::cli::main(std::env::args_os())
}
