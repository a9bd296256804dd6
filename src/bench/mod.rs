//! The benchmark book: records of runs, what follows from them, and the reports that people read. Pure: no command,
//! no process and no clock.

pub mod book;
pub mod bottlenecks;
pub mod checks;
pub mod compare;
pub mod derive;
pub mod documents;
pub mod gate;
pub mod history;
pub mod html;
pub mod ladder;
pub mod outlook;
pub mod prices;
pub mod record;
pub mod report;
pub mod scaling;
pub mod student;
pub mod sweep;
pub mod text;
pub mod yaml;
