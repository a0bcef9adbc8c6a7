"""Between OpenAI's formats and token ids: a line in, a result out. Pure, but for the ingest process."""
