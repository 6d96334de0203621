//! Schedules, default sizes, single files and hubs.
