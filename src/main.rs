//! The command line of qaflow; all of it is in the library.

/// The allocator: over days its memory stays where what is in use is. With glibc's, blocks of the store's cache that
/// come and go leave holes between what stays (docs/adr/0019).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> std::process::ExitCode {
    qaflow::cli::main()
}
