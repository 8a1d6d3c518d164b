"""Published weights become a folder that lanes open: sources, plan, writer, check. Shared by the lanes' `prepare` modules."""
