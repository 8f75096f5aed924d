//! What a VM has outside its machine: its folder, its control socket, its daemons.
//!
//! One rule: a VM that needs none of it runs without, and says so.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use control_protocol::Access;
use host_os::privileges::Identity;

use crate::control::VmControl;
use crate::daemons;
use crate::daemons::Daemons;
use crate::daemons::Roll;
use crate::devices::Source;
use crate::home;
use crate::home::Home;
use crate::run::Error;
use crate::status::Status;
use crate::vm_config::VmConfig;

/// See above. Dropping it ends the daemons, then removes the folder.
pub(crate) struct Surroundings {
    daemons: Option<Daemons>,
    listener: Option<UnixListener>,
    home: Option<Home>,
}

impl Surroundings {
    /// Claims the VM's folder and starts its daemons, all for `identity`.
    pub(crate) fn make(
        config: &VmConfig,
        identity: Option<&Identity>,
        status: Status,
    ) -> Result<Self, Error> {
        let needed = config
            .devices
            .iter()
            .any(|device| matches!(device.source, Source::Daemon(_)));
        let name = config.named.then_some(config.name.as_str());
        let home = match home::make(name, &config.name) {
            Ok(home) => home,
            Err(error @ home::Error::Folder { .. }) if !needed => {
                tracing::warn!(%error, "the VM has no control socket");
                return Ok(Self {
                    daemons: None,
                    listener: None,
                    home: None,
                });
            }
            Err(error) => return Err(error.into()),
        };
        let owner = identity.map(Identity::owner);
        if let Some(owner) = owner {
            home.share(owner)?;
        }
        let listener = control_protocol::bind(&home.control(), Access::private(owner))?;
        let mut made = Self {
            daemons: None,
            listener: Some(listener),
            home: None,
        };
        let plan = daemons::plan(config, &home, status.json);
        let started = match &plan {
            Ok(Some(plan)) => Daemons::start(plan, &home).map(Some),
            _ => Ok(None),
        };
        made.home = Some(home);
        plan?;
        made.daemons = started?;
        Ok(made)
    }

    pub(crate) fn home(&self) -> Option<&Home> {
        self.home.as_ref()
    }

    pub(crate) fn home_path(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| &*home.path)
    }

    /// Starts to follow the daemons' fate.
    pub(crate) fn follow(&mut self) -> std::io::Result<()> {
        self.daemons.as_mut().map_or(Ok(()), Daemons::follow)
    }

    pub(crate) fn roll(&self) -> Option<Roll> {
        self.daemons
            .as_ref()
            .map(|daemons| Arc::clone(&daemons.roll))
    }

    /// The name by which this VM is found.
    pub(crate) fn name(&self, config: &VmConfig) -> String {
        let folder = self.home.as_ref().and_then(|home| home.path.file_name());
        folder.map_or_else(
            || config.name.clone(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    /// Answers on the control socket from now on.
    pub(crate) fn serve(&mut self, control: VmControl) -> Result<(), Error> {
        if let Some(listener) = self.listener.take() {
            control_protocol::serve(listener, Arc::new(control))?;
        }
        Ok(())
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        if let Some(home) = &self.home {
            let _ = std::fs::remove_file(home.control());
        }
        // The keeper of the daemons removes what is theirs.
        drop(self.daemons.take());
        if let Some(home) = self.home.take() {
            home::remove(&home.path);
        }
    }
}
