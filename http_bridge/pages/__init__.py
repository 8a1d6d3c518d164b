"""The pages as plain files: HTML, styles and scripts as browsers read them. There is no build step."""
