//! What GPU time costs: dated prices that people edit, and the cost of a number of GPU-hours.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::model::projection::Projection;

/// The newest format of a file of prices that this program reads.
pub const PRICES_FORMAT: u32 = 1;

/// Prices that cannot be read.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{file}: {detail}")]
pub struct PricesError {
    /// The file.
    pub file: String,
    /// What is wrong and what would be right.
    pub detail: String,
}

/// A file of prices, as in `configs/prices.yaml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Its format.
    pub format: u32,
    /// The currency, as in `USD`.
    pub currency: String,
    /// From when the prices are.
    pub as_of: String,
    /// The prices.
    pub offers: Vec<Offer>,
}

/// One price.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Offer {
    /// What is rented.
    pub name: String,
    /// GPUs that one price buys, as in 8 for a machine with 8.
    #[serde(default = "one")]
    pub gpus: u32,
    /// The price of an hour of all of them; `null` where it is not known.
    pub per_hour: Option<f64>,
    /// Whether it is the cluster that the work runs on: savings are counted against it.
    #[serde(default)]
    pub own: bool,
    /// Whether it is what local trials run on.
    #[serde(default)]
    pub local: bool,
    /// Where the price is from, and from when if not as the file says.
    #[serde(default)]
    pub source: String,
}

fn one() -> u32 {
    1
}

impl Offer {
    /// The price of one GPU for an hour.
    pub fn per_gpu_hour(&self) -> Option<f64> {
        self.per_hour.map(|price| price / f64::from(self.gpus.max(1)))
    }

    /// What so many GPU-hours cost.
    pub fn cost(&self, gpu_hours: f64) -> Option<f64> {
        self.per_gpu_hour().map(|price| price * gpu_hours)
    }

    /// The cost in the best, expected and worst case.
    pub fn cases(&self, projection: &Projection) -> Option<[f64; 3]> {
        let price = self.per_gpu_hour()?;
        Some([projection.low, projection.expected, projection.high].map(|hours| price * hours))
    }
}

impl Prices {
    /// Reads prices. `file` is for messages.
    ///
    /// # Errors
    /// [`PricesError`] with the line, if it is malformed, newer, or a price makes no sense.
    pub fn read(file: &str, text: &str) -> Result<Self, PricesError> {
        let failed = |detail: String| PricesError { file: file.into(), detail };
        let tree: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| failed(error.to_string()))?;
        let found = tree.get("format").and_then(serde_json::Value::as_u64).unwrap_or(0);
        if found > u64::from(PRICES_FORMAT) {
            return Err(failed(format!("it has format {found}; this program reads up to {PRICES_FORMAT}")));
        }
        let prices: Self = serde_saphyr::from_str(text).map_err(|error| failed(error.to_string()))?;
        for offer in &prices.offers {
            if offer.per_hour.is_some_and(|price| !price.is_finite() || price < 0.0) || offer.gpus == 0 {
                return Err(failed(format!("`{}`: per_hour must be at least 0 and gpus at least 1", offer.name)));
            }
        }
        if prices.offers.iter().filter(|offer| offer.own).count() > 1 {
            return Err(failed("only one offer can be `own`, the cluster that the work runs on".into()));
        }
        if prices.offers.iter().any(|offer| offer.own && offer.local) {
            return Err(failed("an offer is either `own`, the cluster, or `local`".into()));
        }
        Ok(prices)
    }

    /// The cluster that the work runs on.
    pub fn own(&self) -> Option<&Offer> {
        self.offers.iter().find(|offer| offer.own)
    }

    /// What is saved by not renting `offer`: its cost less the own cluster's; `None` where either is not known.
    pub fn savings(&self, offer: &Offer, gpu_hours: f64) -> Option<f64> {
        Some(offer.cost(gpu_hours)? - self.own()?.cost(gpu_hours)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHIPPED: &str = include_str!("../../configs/prices.yaml");

    #[test]
    fn the_shipped_prices_give_costs_as_computed_by_hand() {
        let prices = Prices::read("prices.yaml", SHIPPED).unwrap();
        let by = |name: &str| prices.offers.iter().find(|offer| offer.name.contains(name)).unwrap();
        // 32 $/h for 8 GPUs are 4 $ a GPU-hour.
        assert_eq!(by("p4d").per_gpu_hour(), Some(4.0));
        assert_eq!(by("p4d").cost(319.0), Some(1276.0));
        assert_eq!(by("Google").cost(100.0), Some(367.0));
        assert!((by("Azure").cost(1000.0).unwrap() - 3060.0).abs() < 1e-9);
        let projection = Projection { expected: 319.0, low: 250.0, high: 400.0 };
        assert_eq!(by("p4d").cases(&projection), Some([1000.0, 1276.0, 1600.0]));
        let own = prices.own().unwrap();
        assert_eq!((own.per_gpu_hour(), own.cost(10.0)), (None, None));
        assert_eq!(prices.savings(by("p4d"), 319.0), None);
        let mut with_rate = prices.clone();
        with_rate.offers.iter_mut().find(|offer| offer.own).unwrap().per_hour = Some(0.5);
        assert_eq!(with_rate.savings(by("p4d"), 100.0), Some(350.0));
    }

    #[test]
    fn bad_prices_are_named() {
        let bad = |from: &str, to: &str| Prices::read("p.yaml", &SHIPPED.replace(from, to)).unwrap_err().to_string();
        assert!(bad("per_hour: 32.00", "per_hour: -1").contains("p4d"));
        assert!(bad("format: 1", "format: 2").contains("this program reads up to 1"));
        assert!(bad("currency: USD", "currenzy: USD").contains("currenzy"));
        assert!(
            bad("own: true", "own: true\n  - name: second\n    per_hour: null\n    own: true").contains("only one")
        );
    }
}
