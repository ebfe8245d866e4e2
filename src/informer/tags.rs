//! What an operator says of a peer: region, rack, group.

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::{Informer, InformerContext, METRIC_TTL, validate_ttl};
use crate::config::{ConfigSection, duration};
use crate::error::{Error, Result};
use crate::types::Metric;

/// Most tags of one peer; each is a metric that every other peer keeps.
pub const TAGS_MAX: usize = 64;

/// `informer.tags` of `service.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TagsConfig {
    /// How long a tag is true without being said again.
    #[serde(with = "duration")]
    pub metric_ttl: Duration,
    /// Tags and their values. A section without them has none, not the default.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
}

impl Default for TagsConfig {
    fn default() -> Self {
        Self { metric_ttl: METRIC_TTL, tags: BTreeMap::from([("group".to_owned(), "default".to_owned())]) }
    }
}

impl ConfigSection for TagsConfig {
    const PATH: &'static str = "informer.tags";
    const ENV_PREFIX: &'static str = "CLUSTER_TAGS_";

    fn validate(&self) -> Result<()> {
        validate_ttl("tags", self.metric_ttl)?;
        let wrong = |why: String| {
            Err(Error::invalid_input(format!("tags.tags is invalid: {why}")).component("informer"))
        };
        if self.tags.contains_key("") {
            return wrong("a tag has an empty name".to_owned());
        }
        if self.tags.len() > TAGS_MAX {
            return wrong(format!("{} tags, at most {TAGS_MAX} are possible", self.tags.len()));
        }
        Ok(())
    }
}

/// Tells each tag as a metric `tag:<name>`, partitionable and without weight. Without tags nothing is sent.
#[derive(Debug)]
pub struct Tags {
    config: TagsConfig,
    cx: InformerContext,
}

impl Tags {
    /// An informer.
    ///
    /// # Errors
    /// `InvalidInput` naming the key.
    pub fn new(config: TagsConfig, cx: InformerContext) -> Result<Self> {
        config.validate()?;
        Ok(Self { config, cx })
    }
}

#[async_trait]
impl Informer for Tags {
    fn name(&self) -> &str {
        "tags"
    }

    fn ttl(&self) -> Duration {
        self.config.metric_ttl
    }

    async fn metrics(&self) -> Result<Vec<Metric>> {
        let metric = |(name, value): (&String, &String)| Metric {
            partitionable: true,
            ..self.cx.metric(format!("tag:{name}"), value, 0, self.config.metric_ttl)
        };
        Ok(self.config.tags.iter().map(metric).collect())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::config::testing::{assert_default_reads_back, refusal, section, text_of, with};
    use crate::informer::test_cx;

    fn config(tags: &[(&str, &str)]) -> TagsConfig {
        let tags = tags.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect();
        TagsConfig { tags, ..TagsConfig::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn each_tag_is_a_partitionable_metric_without_weight() {
        let config = config(&[("region", "eu"), ("rack", "")]);
        let metrics = Tags::new(config, test_cx::cx_without_daemon()).unwrap().metrics().await.unwrap();
        let told: Vec<_> =
            metrics.iter().map(|metric| (metric.name.as_str(), metric.value.as_str())).collect();
        assert_eq!(told, [("tag:rack", ""), ("tag:region", "eu")]);
        for metric in &metrics {
            assert!(metric.partitionable && metric.valid && metric.weight == 0, "{metric:?}");
            assert_eq!(metric.expires_at(), test_cx::EPOCH + Duration::from_secs(30));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_tags_nothing_is_sent() {
        let informer = Tags::new(config(&[]), test_cx::cx_without_daemon()).unwrap();
        assert!(informer.metrics().await.unwrap().is_empty());
    }

    #[test]
    fn configuration_reads_and_writes_as_the_references() {
        let text = r#"{"metric_ttl":"30s","tags":{"group":"default"}}"#;
        assert_eq!(serde_json::to_string(&TagsConfig::default()).unwrap(), text);
        assert_default_reads_back::<TagsConfig>();
        for file in [json!({}), json!({"tags": null}), json!({"tags": {}})] {
            assert!(section::<TagsConfig>(file).tags.is_empty());
        }
        let variable = |value| with::<TagsConfig>(Value::Null, &[("CLUSTER_TAGS_TAGS", value)]);
        assert_eq!(variable("group:g1,region:eu").unwrap().section.tags["region"], "eu");
        let text = text_of(variable("foo"));
        assert!(text.contains("error parsing informer.tags.tags: invalid map item 1"), "{text}");
        assert!(text.contains("(from CLUSTER_TAGS_TAGS)"), "{text}");
        assert_eq!(refusal::<TagsConfig>(json!({"metric_ttl": "0s"})), "tags.metric_ttl is invalid");
        assert!(config(&[("", "x")]).validate().unwrap_err().to_string().starts_with("tags.tags is invalid"));
        let names: Vec<_> = (0..=TAGS_MAX).map(|number| number.to_string()).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(config(&many[1..]).validate().is_ok());
        assert!(config(&many).validate().unwrap_err().to_string().contains("65 tags"));
    }
}
