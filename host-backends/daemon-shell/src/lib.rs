//! Process manners once: arguments, config, logging, signals, sandbox, metrics.
