"""Fit preprocessing as the configuration says."""

from trainer.config import roles
from trainer.config.net_config import NetConfig
from trainer.data.schema import RowRules
from trainer.features.preprocessing import Columns, Preprocessing, Rows, Rules, fit
from trainer.features.tokenizers import TextRules
from trainer.features.vocabulary import VocabularyRules


def fit_preprocessing(config: NetConfig, train: Columns, rows: Rows = slice(None)) -> Preprocessing:
    """Fit vocabularies, scales and the label to the training rows, as configured."""
    return fit(
        train,
        roles.feature_roles(config),
        label=config.label_column,
        weight=config.weight_column,
        objective=config.objective,
        rules=Rules(vocabulary_rules(config), text_rules(config), config.outlier_limit),
        rows=rows,
    )


def row_rules(config: NetConfig) -> RowRules:
    """Which rows are left out, and what the label means, as configured."""
    return RowRules(config.max_bad_rows, config.skip_unlabelled, config.positive_label)


def text_rules(config: NetConfig) -> TextRules:
    """How texts are tokenized, as configured."""
    return TextRules(config.tokenizer, config.lowercase, config.max_tokens, config.keep_tokens, config.split_characters)


def vocabulary_rules(config: NetConfig) -> VocabularyRules:
    """Which values the vocabularies keep, as configured."""
    return VocabularyRules(config.min_count, config.max_vocabulary, config.max_values, config.keep_values)
