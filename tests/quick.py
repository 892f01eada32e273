"""Which tests `pytest -m quick` runs: a sample of the suite that takes less than a minute.

A test function is quick unless SLOW names it or its file. Of its cases quick takes as few as have every value
of every parameter among them: every instruction set, binding, option and size, but not every combination.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent

SLOW = {
    # Compile, train or evaluate for seconds. What transformers computes is in test_goldens.py too.
    "test_evaluation.py",
    "test_make_assets.py",
    "test_numba_kernels.py",
    "test_parity.py",
    "test_published.py",
    "test_training.py",
    "test_calibration.py::test_a_calibrated_model_is_closer_to_its_source",
    "test_calibration.py::test_what_the_matrix_gives_comes_closer",
    "test_variants.py::test_every_variant_gives_the_logits_of_transformers",
    # Start many processes: copies of the package, downloads, terminals, every backend.
    "test_chat_terminal.py",
    "test_download.py",
    "test_fork.py",
    "test_missing_parts.py",
    "test_chat.py::test_bytes_that_are_no_text_and_a_closed_input_are_no_crash",
    "test_chat.py::test_what_goes_wrong_is_a_line_and_the_talk_goes_on",
    "test_compare.py::test_a_backend_runs_in_a_new_process_and_only_its_memory_counts",
    "test_compare.py::test_a_backend_that_does_not_run_is_a_row_with_its_reason",
    "test_compare.py::test_a_model_without_a_vocabulary_is_fed_the_prompts_bytes",
    "test_compare.py::test_a_prompt_is_read_with_the_vocabulary_of_the_weight_file",
    "test_compare.py::test_progress_is_reported_before_and_after_each",
    "test_compare.py::test_rows_are_sorted_by_speed_and_those_that_did_not_run_come_last",
    "test_compare.py::test_the_json_has_a_row_for_every_backend",
    "test_compare.py::test_the_subcommand_is_the_flag",
    "test_compare.py::test_threads_reach_every_backend_and_other_flags_the_native_row_only",
    "test_error_lines.py::test_offline_a_model_that_was_never_fetched_is_one_line",
    "test_error_lines.py::test_output_that_cannot_be_written_is_an_error",
    "test_error_lines.py::test_the_process_says_no_more_than_the_line",
    "test_hub.py::test_the_real_client_offline_finds_its_cache_whose_files_are_links",
    "test_hub.py::test_the_real_client_offline_gives_one_line",
    "test_packed_cache.py::test_a_mapped_model_has_next_to_no_memory_of_its_own",
    "test_packed_cache.py::test_processes_that_race_to_build_leave_one_good_file",
    "test_packed_cache.py::test_where_nothing_can_be_written_what_is_there_still_serves",
    "test_quantized.py::test_no_float32_copy_of_a_matrix_is_ever_made",
    "test_run.py::test_a_closed_stream_is_no_crash",
    "test_run.py::test_a_reader_that_goes_away_ends_it_without_a_word",
    "test_run.py::test_ctrl_c_ends_it_in_one_line",
    "test_run.py::test_json_survives_any_terminal",
    "test_run.py::test_python_m_gpt2c_is_the_gpt2c_command",
    "test_run.py::test_the_exit_status_of_the_process",
    # Long texts, large files, naive backends, or many repetitions with the trained model.
    "attacks/test_attack_safetensors.py::test_a_hundred_megabytes_of_nothing",
    "kernels/test_arguments.py::test_queries_of_the_past_are_not_read",
    "kernels/test_linear_quantized.py::test_any_weights_are_stored_without_nan_and_within_the_declared_error",
    "test_backends.py::test_greedy_text_is_the_same",
    "test_backends.py::test_logits_of_the_embedded_model_are_the_oracles",
    "test_backends.py::test_presets_are_the_native_options_that_they_name",
    "test_backends.py::test_streamed_pieces_are_the_text_of_generate",
    "test_batch_feed.py::test_a_batch_wider_than_a_block_of_logits",
    "test_batch_generation.py::test_many_batches_at_once_do_not_disturb_each_other",
    "test_batch_generation.py::test_the_trained_model_continues_texts_up_to_their_own_ends",
    "test_beam_search.py::test_cancel_ends_a_search",
    "test_beam_search.py::test_random_models_find_what_transformers_finds",
    "test_beam_search.py::test_the_command_searches_greedily_and_tells_all_beams",
    "test_beam_search.py::test_the_trained_model_finds_what_transformers_finds",
    "test_bpe_text.py::test_a_megabyte_of_white_space_before_a_letter",
    "test_bpe_text.py::test_a_word_of_a_megabyte",
    "test_bpe_text.py::test_any_ids_decode_to_their_bytes",
    "test_bpe_text.py::test_any_small_vocabulary_has_the_ids_of_hugging_face",
    "test_bpe_text.py::test_any_small_vocabulary_has_the_ids_of_its_merges",
    "test_bpe_text.py::test_short_windows_over_long_tokens_give_the_same_ids",
    "test_bpe_text.py::test_tiktoken_is_used_exactly_where_the_merges_give_every_token",
    "test_bpe_text.py::test_tokens_stay_apart_exactly_where_two_texts_keep_theirs_when_joined",
    "test_chat.py::test_another_backend_talks_too",
    "test_chat.py::test_settings_and_the_plan_can_be_changed",
    "test_chat.py::test_when_the_context_is_full_the_oldest_turns_go_and_it_says_so",
    "test_convert.py::test_a_full_disk_leaves_nothing",
    "test_convert.py::test_a_gguf_file_of_the_embedded_model_says_the_same_text",
    "test_convert.py::test_a_written_folder_has_the_logits_of_its_source_in_transformers",
    "test_convert.py::test_padding_of_a_vocabulary_is_padding_again",
    "test_convert.py::test_the_vocabulary_goes_along",
    "test_generation.py::test_the_stream_is_the_text_is_the_decoded_ids",
    "test_generation_ends.py::test_ctrl_c_ends_a_long_prompt_and_the_session_is_as_before",
    "test_generation_text.py::test_any_tokens_stream_as_their_text_up_to_eos_or_a_stop_string",
    "test_head_screen.py::test_it_is_used_only_where_nothing_else_reads_the_logits",
    "test_head_screen.py::test_the_trained_model_gets_the_whole_heads_id_from_few_candidates",
    "test_kv_f16.py::test_all_subsets_of_the_other_switches_give_the_same_bits",
    "test_ladder.py::test_each_step_adds_one_option_to_an_earlier_one",
    "test_prepare_text.py::test_tiny_shakespeare_has_the_tokens_that_llm_c_prints",
    "test_quantize.py::test_a_full_disk_leaves_nothing",
    "test_quantized.py::test_one_row_and_many_give_the_same_bits",
    "test_readers.py::test_a_gguf_file_brings_its_own_vocabulary",
    "test_readme.py::test_the_text_is_the_same_with_the_options_that_the_readme_tries",
    "test_run.py::test_a_context_that_slides_goes_on_and_says_what_was_dropped",
    "test_run.py::test_a_draft_gives_the_same_text_and_says_how_its_guesses_held",
    "test_run.py::test_every_instruction_set_of_this_machine_runs",
    "test_run.py::test_the_defaults_are_temperature_08_top_k_40_seed_0_and_50_tokens",
    "test_run.py::test_the_text_is_the_same_every_time_and_another_with_another_seed",
    "test_sampling.py::test_tokens_come_as_often_as_their_probability_says",
    "test_sampling_rules.py::test_a_greedy_generation_is_that_of_transformers",
    "test_sampling_rules.py::test_suppressed_tokens_never_come_and_eos_not_before_its_time",
    "test_scoring.py::test_a_text_longer_than_the_context_has_transformers_scores",
    "test_session.py::test_a_prompt_longer_than_the_cores_own_chunks_gives_the_same_bits",
    "test_speculative.py::test_each_token_is_drawn_from_the_models_own_distribution",
    "test_speculative.py::test_the_trained_model_with_each_kind_of_draft",
    "test_tokenizer.py::test_merges_that_do_not_reach_a_token_go_through_the_readable_loop",
}
"""Files, and file::function, in tests/ that are not quick. A quick run ends with its slowest functions, the
candidates for this list."""


def mark(items: Iterable[pytest.Item]) -> None:
    """Give the sample of these tests the marker `quick`."""
    cases: dict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.path.is_relative_to(TESTS):
            cases[function_of(item)].append(item)
    for function, its_cases in cases.items():
        if function not in SLOW and function.partition("::")[0] not in SLOW:
            for item in each_value_once(its_cases):
                item.add_marker("quick")


def function_of(item: pytest.Item) -> str:
    """The test function of a case, as SLOW names it."""
    return f"{item.path.relative_to(TESTS).as_posix()}::{getattr(item, 'originalname', item.name)}"


def report(stats: Mapping[str, list[Any]]) -> Iterator[str]:
    """What a run took, and the functions that took most of it; stats: a terminal reporter's."""
    seconds: dict[str, float] = defaultdict(float)
    for one in (one for reports in stats.values() for one in reports if isinstance(one, pytest.TestReport)):
        seconds[one.nodeid.partition("[")[0]] += one.duration
    yield f"{sum(seconds.values()):.0f} s in {len(seconds)} test functions, of which the slowest are"
    for function in sorted(seconds, key=seconds.__getitem__, reverse=True)[:10]:
        yield f"  {seconds[function]:.1f} s  {function}"
    yield "A minute is the limit: what takes long belongs in SLOW of tests/quick.py."


def each_value_once(cases: list[pytest.Item]) -> Iterator[pytest.Item]:
    """As few cases as a greedy search finds that together have every value of every parameter."""
    values = [_values(case) for case in cases]
    missing = set[tuple[object, ...]]().union(*values)
    if not missing:
        yield cases[0]
    while missing:
        best = max(range(len(cases)), key=lambda i: len(values[i] & missing))  # the first of equals
        missing -= values[best]
        yield cases[best]


def _values(case: pytest.Item) -> set[tuple[object, ...]]:
    """Each parameter of a case with its value, by identity: the cases of one table share the objects in it.

    Of names that come together, such as an instruction set and a binding, each is a value.
    """
    callspec = getattr(case, "callspec", None)
    found: set[tuple[object, ...]] = set()
    for name, value in callspec.params.items() if callspec else ():
        parts = list(value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else [])
        if parts and all(isinstance(part, str) for part in parts):
            found |= {(name, i, part) for i, part in enumerate(parts)}
        else:
            found.add((name, id(value)))
    return found
