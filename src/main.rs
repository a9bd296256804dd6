//! The command line of qaflow; all of it is in the library.

fn main() -> std::process::ExitCode {
    qaflow::cli::main()
}
