//! Configuration files: any text is a list of disks or a list of mistakes.
#![no_main]

use std::path::Path;

use block_backend::BlockSpec;
use config_file::ConfigFile;
use daemon_shell::NothingShared;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let file = ConfigFile::new(Path::new("fuzz.toml"), text);
    match daemon_shell::config::parse::<NothingShared, BlockSpec>(&file, |table| table.read()) {
        Ok(config) => assert!(!config.devices.is_empty(), "a daemon without a device"),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
