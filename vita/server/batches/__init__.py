"""Batches of requests, and the files of their inputs and results, with the fields of the OpenAI API.

files = FileStore(folder / "files", settings); batches = BatchStore(folder / "batches")
runner = BatchRunner(batches, files, gateway); await runner.run()
"""
