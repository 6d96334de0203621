//! craft-report
